"""The commands of Ray in the pages, on a cluster that `ray start` starts: `serve deploy`, and `stylert generate --ray auto`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from stylert.runtime import Bundle, Generator
from tests.runtime.serving.test_ray_serve import Load, free_port, pixels, wait_until
from tests.runtime.shards.reading import images_of
from tests.runtime.shards.test_making import command

PROGRAMS = Path(sys.executable).parent


class HeadNode:
    """A cluster of one node, in a process of its own.

    Attributes:
        environment: The environment of a process that uses the cluster. Clusters of other tests may run beside it.
        dashboard: Where `serve` reaches it.
    """

    def __init__(self) -> None:
        pytest.importorskip("ray")
        port, dashboard = free_port(), free_port()
        self.environment = os.environ | {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_USAGE_STATS_ENABLED": "0"}
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        ports = {
            "--port": port,
            "--dashboard-port": dashboard,
            "--dashboard-agent-listen-port": free_port(),
            "--ray-client-server-port": free_port(),
        }
        words = [
            str(PROGRAMS / "ray"),
            "start",
            "--head",
            "--block",
            "--num-cpus",
            "2",
            "--object-store-memory",
            str(100 * 2**20),
        ]
        words += [str(word) for pair in ports.items() for word in pair]
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def is_ready(self) -> bool:
        assert self.process.poll() is None, "ray start has ended"
        return status_of(f"{self.dashboard}/api/serve/applications/") == 200

    def running_replicas(self) -> int:
        """Replicas that answer, of all applications."""
        applications = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=60).json()["applications"]
        deployments = [one for app in applications.values() for one in app["deployments"].values()]
        return sum(replica["state"] == "RUNNING" for one in deployments for replica in one["replicas"])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(120)


def status_of(url: str) -> int | None:
    try:
        return httpx.get(url, timeout=30).status_code
    except httpx.HTTPError:
        return None


@pytest.fixture(scope="module")
def head() -> Iterator[HeadNode]:
    head = HeadNode()
    try:
        wait_until(head.is_ready)
        yield head
    finally:
        head.stop()


def deploy(head: HeadNode, bundle: Bundle, folder: Path, *options: str) -> None:
    """The two commands of the page."""
    words = [sys.executable, "-P", "-m", "stylert.cli.main", "deploy", "ray", str(bundle.path), "--out", str(folder), *options]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    words = [str(PROGRAMS / "serve"), "deploy", str(folder / "serve.yaml"), "--address", head.dashboard]
    done = subprocess.run(words, env=head.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.timeout(600)
def test_serve_deploy_starts_the_application_and_its_replicas_follow_the_load(
    head: HeadNode, bundle: Bundle, tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    deploy(head, bundle, tmp_path / "app", "--name", "x", "--replicas", "1:2", "--max-batch", "2", "--port", str(port))
    wait_until(lambda: status_of(f"{url}/v2/health/ready") == 200)
    with Generator.load(bundle, threads=1) as g:
        made = httpx.get(f"{url}/v1/images/7.png", params={"psi": 0.7}, timeout=60)
        assert np.abs(pixels(made.content) - g([7], 0.7)[0]).max() <= 1
    assert head.running_replicas() == 1
    load = Load(url, 12)
    try:
        wait_until(lambda: head.running_replicas() == 2)
        time.sleep(2)
    finally:
        load.stop()
    assert {status for _, status, _, _ in load.answers} == {200}
    subprocess.run(
        [str(PROGRAMS / "serve"), "shutdown", "--yes", "--address", head.dashboard],
        env=head.environment,
        check=True,
        capture_output=True,
        timeout=120,
    )
    wait_until(lambda: head.running_replicas() == 0)


@pytest.mark.long
def test_generate_uses_the_cluster_of_this_machine(head: HeadNode, bundle: Bundle, tmp_path: Path) -> None:
    def run(*options: str) -> Any:
        words = command(bundle, tmp_path / "out", *options)
        return subprocess.run(words, env=head.environment, capture_output=True, text=True, timeout=300)

    done = run("--ray", "auto")
    assert done.returncode == 0, done.stderr
    assert sorted(images_of(tmp_path / "out")) == list(range(800))
