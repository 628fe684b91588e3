"""The application for Ray Serve: its configuration, and a cluster that loses a node under load."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image

from stylert.core.errors import InputError, OutputError
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.media.recipes import bundle_hash
from stylert.runtime.serving.ray_serve.deployment import RayOptions, configuration, write_application, yaml_text
from tests.ray_cluster import cluster


def written(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "serve.yaml").read_text())


def test_the_configuration_names_the_bundle_and_how_it_runs(bundle: Bundle, tmp_path: Path) -> None:
    options = RayOptions(
        name="cats", precision="int8", max_batch=4, max_delay_ms=1.5, min_replicas=2, max_replicas=5, threads=3
    )
    path = write_application(bundle, tmp_path / "app", options)
    assert path == str(tmp_path / "app" / "serve.yaml")
    (app,) = written(tmp_path / "app")["applications"]
    (images,) = app["deployments"]
    arguments = app["args"]
    assert Bundle.load(arguments["bundle"]).precisions.keys() == bundle.precisions.keys()
    assert arguments["sha256"] == bundle_hash(Bundle.load(arguments["bundle"])) == bundle_hash(bundle)
    assert (arguments["precision"], arguments["max_batch"], arguments["max_delay_ms"], arguments["threads"]) == (
        "int8",
        4,
        1.5,
        3,
    )
    assert (images["autoscaling_config"]["min_replicas"], images["autoscaling_config"]["max_replicas"]) == (2, 5)
    assert images["ray_actor_options"] == {"num_cpus": 3}
    assert images["graceful_shutdown_timeout_s"] == options.stop_seconds
    (tmp_path / "app" / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        write_application(bundle, tmp_path / "app", options)


def test_yaml_is_what_a_reader_of_yaml_reads() -> None:
    content = {
        "a": {"text": 'x: "y" # z\n', "number": 1.5, "whole": 3, "truth": True, "number as text": "1"},
        "list": [{"name": "- one", "inner": [{"b": 1, "c": {"d": 2}}, {"b": 2}]}, {"name": "ü"}],
    }
    assert yaml.safe_load(yaml_text(content)) == content
    whole = configuration("/a b", "0" * 64, "fp32", RayOptions(name="x"))
    assert yaml.safe_load(yaml_text(whole)) == whole


@pytest.mark.parametrize(
    "changes", [{"name": "a b"}, {"name": "x", "max_batch": 0}, {"name": "x", "min_replicas": 3, "max_replicas": 2}]
)
def test_options_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        RayOptions(**changes)


def test_the_command_writes_an_application(bundle: Bundle, tmp_path: Path) -> None:
    words = [sys.executable, "-P", "-m", "stylert.cli.main", "deploy", "ray", str(bundle.path), "--out", str(tmp_path / "app")]
    done = subprocess.run([*words, "--name", "x", "--replicas", "1:4"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, "serve deploy" in done.stdout) == (0, True), done.stderr
    autoscaling = written(tmp_path / "app")["applications"][0]["deployments"][0]["autoscaling_config"]
    assert (autoscaling["min_replicas"], autoscaling["max_replicas"]) == (1, 4)
    for wrong in (["--precision", "fp8"], ["--replicas", "4:1"], ["--replicas", "x"]):
        done = subprocess.run([*words, "--name", "x", *wrong], capture_output=True, text=True, timeout=120)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until(condition: Callable[[], bool], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


class Load:
    """Clients that ask for images one after another, and keep what they got."""

    def __init__(self, url: str, clients: int) -> None:
        self._url, self._stopped = url, threading.Event()
        self.answers: list[tuple[int, int, bytes, str]] = []
        self._threads = [threading.Thread(target=self._run, args=[place, clients]) for place in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self, seed: int, step: int) -> None:
        with httpx.Client(base_url=self._url, timeout=120) as client:
            while not self._stopped.is_set():
                answer = client.get(f"/v1/images/{seed}.png", params={"psi": 0.7})
                self.answers.append((seed, answer.status_code, answer.content, answer.headers.get("content-type", "")))
                seed += step

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(150)
            assert not thread.is_alive(), "a request has no answer"


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_cluster_that_loses_a_node_under_load_answers_everything_and_recovers(
    bundle: Bundle, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    import ray
    from ray import serve

    def replicas() -> int:
        (application,) = serve.status().applications.values()
        assert application.status != "DEPLOY_FAILED", application.message
        if "Images" not in application.deployments:
            return 0
        return int(application.deployments["Images"].replica_states.get("RUNNING", 0))

    def deploy(one: Bundle) -> None:
        from ray.serve._private.api import serve_start
        from ray.serve.schema import ServeDeploySchema

        options = RayOptions(name="x", backend="onnxruntime", min_replicas=2, max_replicas=2, max_batch=4, port=port)
        write_application(one, tmp_path / "app", options)
        schema = ServeDeploySchema.model_validate(written(tmp_path / "app"))
        client = serve_start(http_options=schema.http_options.model_dump(), proxy_location=schema.proxy_location)
        client.deploy_apps(schema)

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with cluster() as nodes:
        ray.init(address=nodes.address, namespace="serve", log_to_driver=False)
        try:
            deploy(bundle)
            wait_until(lambda: replicas() == 2)
            check_answers(url, bundle)
            load = Load(url, 6)
            time.sleep(3)
            nodes.kill_second()
            time.sleep(10)
            count = len(load.answers)
            wait_until(lambda: len(load.answers) > count + 20)
            nodes.add_second()
            wait_until(lambda: replicas() == 2)
            load.stop()
            check_load(load, bundle)
            # Another bundle, under load: replicas are replaced one after another.
            another = export_bundle(make_checkpoint(another=True), tmp_path / "another", ["fp32"], verify_seeds=0)
            load = Load(url, 4)
            deploy(another)
            wait_until(lambda: replicas() == 2 and is_made_by(url, another))
            load.stop()
            assert {status for _, status, _, _ in load.answers} == {200}  # an update loses no request
        finally:
            serve.shutdown()
            ray.shutdown()


def is_made_by(url: str, bundle: Bundle) -> bool:
    answer = httpx.get(f"{url}/v1/images/5.png", timeout=60)
    with Generator.load(bundle, threads=1) as g:
        expected = g([5])[0]
    return answer.status_code == 200 and bool(np.abs(pixels(answer.content) - expected).max() <= 1)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def check_answers(url: str, bundle: Bundle) -> None:
    """The routes, and the errors of single requests."""
    with httpx.Client(base_url=url, timeout=60) as client, Generator.load(bundle, threads=1) as g:
        answer = client.post("/v1/images", json={"seeds": "3-8", "psi": 0.5}, headers={"Accept": "application/json"})
        assert answer.status_code == 200, answer.text
        names = [image["name"] for image in answer.json()["images"]]
        assert names == [f"{i:04d}-seed{seed}.png" for i, seed in enumerate(range(3, 9))]
        for seed in (1, 2):
            made = pixels(client.get(f"/v1/images/{seed}.png").content)
            assert np.abs(made - g([seed])[0]).max() <= 1
        wrong = {"/v1/images/x.png": 400, "/v1/images/1.png?psi=x": 400, "/v1/other": 404}
        for path, status in wrong.items():
            answer = client.get(path)
            assert (answer.status_code, set(answer.json())) == (status, {"error"})
        assert client.get("/v2/health/ready").status_code == 200


def check_load(load: Load, bundle: Bundle) -> None:
    """Every answer is the image of its seed, or an error that says so."""
    statuses = Counter(status for _, status, _, _ in load.answers)
    assert statuses[200] > 20
    assert set(statuses) <= {200, 500, 503}, statuses
    made = {seed: data for seed, status, data, _ in load.answers if status == 200}
    seeds = sorted(made)
    with Generator.load(bundle, threads=1) as g:
        for seed in seeds[:: max(1, len(seeds) // 50)]:
            assert np.abs(pixels(made[seed]) - g([seed], 0.7)[0]).max() <= 1
    for _, status, data, _ in load.answers:
        assert status == 200 or data.strip(), "an error says what went wrong"
    print(json.dumps({"answers": statuses}))


@pytest.mark.parametrize("place", ["loop", "loop/x"])
def test_links_in_a_circle_are_refused_in_one_line(bundle: Bundle, tmp_path: Path, place: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError):
        write_application(bundle, tmp_path / place, RayOptions(name="x"))


def test_a_folder_that_the_configuration_cannot_name_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="UTF-8"):
        write_application(bundle, tmp_path / os.fsdecode(b"caf\xe9"), RayOptions(name="x"))
    assert list(tmp_path.iterdir()) == []
