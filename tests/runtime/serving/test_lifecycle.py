"""A server that is stopped or reloaded under load answers everything that it accepted."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from stylert.export.pipeline import export_bundle
from stylert.runtime.bundle import Bundle
from stylert.runtime.media.recipes import bundle_hash
from stylert.runtime.serving import model_store
from stylert.runtime.serving.model_store import BundleSource
from tests.runtime.serving.conftest import LOOPS, running, source

KEY = "correct horse battery"


class Load:
    """Threads that ask for images until they are stopped."""

    def __init__(self, url: str, threads: int = 6) -> None:
        self.statuses: list[int] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=[url, i]) for i in range(threads)]

    def _run(self, url: str, first: int) -> None:
        seed = first
        while not self._stop.is_set():
            try:
                # A connection per request: a client cannot know whether a server took a request on an old one.
                answer = httpx.get(f"{url}/v1/images/{seed % 50}.png", headers={"x-api-key": KEY}, timeout=60)
            except httpx.ConnectError:
                return  # not accepted
            except httpx.HTTPError as e:
                self.failures.append(repr(e))
                return
            self.statuses.append(answer.status_code)
            seed += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reload_under_load_loses_no_request(bundle: Bundle, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "live"
    shutil.copytree(bundle.path, folder)
    with running([source(Bundle.load(folder))], api_key=KEY) as server, Load(server.url) as load:
        reload = {"url": f"{server.url}/v1/models/small/reload", "headers": {"x-api-key": KEY}, "timeout": 60}
        first = server.store.find("small").bundle_hash
        for other in (True, False, True):
            export_bundle(make_checkpoint(another=other), folder, ["fp32"], verify_seeds=0)
            done = len(load.statuses)
            assert httpx.post(**reload).status_code == 200
            assert server.store.find("small").bundle_hash == bundle_hash(Bundle.load(folder)) != first
            first = server.store.find("small").bundle_hash
            wait_for(lambda done=done: len(load.statuses) > done + 10)
        (folder / "synthesis.fp32.onnx").write_bytes(b"damaged")
        refused = httpx.post(**reload)
        assert (refused.status_code, "bytes" in refused.json()["error"]) == (409, True)
        (folder / "bundle.json").unlink()
        assert httpx.post(**reload).status_code == 409
        assert server.store.find("small").bundle_hash == first
        done = len(load.statuses)
        wait_for(lambda: len(load.statuses) > done + 10)
    assert set(load.statuses) == {200}
    assert load.failures == []


def test_a_bundle_that_vanishes_while_it_is_read_again_leaves_the_old_one(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    load_calls = model_store.load_calls

    def vanish(*arguments: Any) -> Any:
        calls = load_calls(*arguments)
        (folder / "bundle.json").unlink()
        return calls

    with running([source(Bundle.load(folder))], api_key=KEY) as server:
        monkeypatch.setattr(model_store, "load_calls", vanish)
        refused = httpx.post(f"{server.url}/v1/models/small/reload", headers={"x-api-key": KEY}, timeout=60)
        assert (refused.status_code, "the old bundle stays" in refused.text) == (409, True)
        assert httpx.get(f"{server.url}/v1/images/1.png", headers={"x-api-key": KEY}, timeout=60).status_code == 200


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied", "mapping.onnx"), "Permission denied"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
    ],
)
def test_a_reload_that_the_system_refuses_leaves_the_old_bundle_and_reloads_the_others(
    bundle: Bundle, error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = source(bundle, name="first"), source(bundle, name="second")
    with running([first, second], api_key=KEY) as server:
        before = server.store.find("first"), server.store.find("second")
        load = server.store._load

        def refuse(given: BundleSource) -> object:
            if given.name == "first":
                raise error
            return load(given)

        monkeypatch.setattr(server.store, "_load", refuse)
        asyncio.run_coroutine_threadsafe(server._reload(), LOOPS[server]).result(60)
        assert server.store.find("first") is before[0]
        assert server.store.find("second") is not before[1]
        refused = httpx.post(f"{server.url}/v1/models/first/reload", headers={"x-api-key": KEY}, timeout=60)
        assert (refused.status_code, reason in refused.json()["error"]) == (409, True)


def test_reloading_needs_a_key_and_a_known_name(bundle: Bundle) -> None:
    with (
        running([source(bundle)], api_key=KEY) as server,
        httpx.Client(base_url=server.url, headers={"x-api-key": KEY}) as client,
    ):
        for name, status in (("other", 404), ("..", 404), ("small", 200)):
            assert client.post(f"/v1/models/{name}/reload", timeout=60).status_code == status
    with running([source(bundle)]) as server:
        assert httpx.post(f"{server.url}/v1/models/small/reload").status_code == 403


@contextmanager
def command(bundle: Bundle, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command `stylert serve` with its address."""
    arguments = [
        sys.executable,
        "-m",
        "stylert.cli.main",
        "serve",
        f"small={bundle.path}",
        "--port",
        "0",
        "--backend",
        "onnxruntime",
    ]
    environment = {**os.environ, "STYLERT_API_KEY": KEY}
    with subprocess.Popen(
        [*arguments, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert " at http://" in line, process.communicate()[1]
            yield process, line.split(" at ")[1].split(",")[0].strip()
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_under_load_ends_the_server_after_the_last_answer(bundle: Bundle, number: signal.Signals) -> None:
    with command(bundle, "--threads", "1") as (process, url), Load(url) as load:
        wait_for(lambda: len(load.statuses) > 20)
        process.send_signal(number)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert load.failures == []
    assert set(load.statuses) == {200}
    events = [json.loads(line) for line in log.splitlines()]
    assert {event["event"] for event in events} == {"loaded", "request", "draining"}
    assert sum(event["event"] == "request" for event in events) >= len(load.statuses)


def test_sighup_reads_the_bundles_again_and_a_bad_one_leaves_the_old(bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "live"
    shutil.copytree(bundle.path, folder)
    with command(Bundle.load(folder)) as (process, url):
        (folder / "mapping.onnx").unlink()
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        events = (json.loads(line) for line in process.stderr)
        failed = next(event for event in events if event["event"] == "reload failed")
        assert "mapping.onnx is missing" in failed["error"]
        shutil.copy(bundle.path / "mapping.onnx", folder)
        process.send_signal(signal.SIGHUP)
        assert next(event for event in events if event["event"] == "reloaded")["bundle"] == "small"
        assert httpx.get(f"{url}/v1/images/1.png", headers={"x-api-key": KEY}, timeout=60).status_code == 200


AT_MOMENT = """
import importlib, os, signal, sys
from stylert.cli import main as cli
from stylert.runtime.serving import model_store, server

def sends(whole):
    def call(*args, **options):
        result = whole(*args, **options)
        os.kill(os.getpid(), signal.SIGHUP)
        return result
    return call

places = {"import": (importlib, "import_module"), "load": (model_store.ModelStore, "load"), "end": (server.ImageServer, "run")}
place, name = places[sys.argv.pop(1)]
setattr(place, name, sends(getattr(place, name)))
cli.main()
"""


@pytest.mark.parametrize("moment", ["import", "load", "end"])
def test_sighup_at_the_start_or_end_does_not_stop_the_server(bundle: Bundle, moment: str) -> None:
    """`systemctl reload` may come while the bundles are loaded, whose files may have changed since they were read."""
    arguments = [moment, "serve", f"small={bundle.path}", "--port", "0", "--backend", "onnxruntime"]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", AT_MOMENT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("serving small")
        expected = {"loaded", "draining"}
        if moment != "end":
            expected.add("reloaded")
            assert any('"reloaded"' in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert {json.loads(line)["event"] for line in log.splitlines()} <= expected


@pytest.mark.parametrize("full", [True, False])
def test_a_log_that_nobody_can_write_changes_no_exit_code(bundle: Bundle, full: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "wb") if full else open(writer, "wb") as log:
        arguments = ["serve", f"small={bundle.path}", "--port", "0", "--backend", "onnxruntime"]
        command = [sys.executable, "-m", "stylert.cli.main", *arguments]
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=buffered) as process:
            assert process.stdout is not None
            url = process.stdout.readline().split(" at ")[1].strip()
            assert httpx.get(f"{url}/v1/images/1.png", timeout=60).status_code == 200
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    if full:
        os.close(writer)
    assert process.returncode == 0


HANGING = """
import sys, threading
from stylert.runtime.serving import model_store

latents_of = model_store.latents_of
model_store.latents_of = lambda g, items: threading.Event().wait() if items[0].only_seed == 99 else latents_of(g, items)
from stylert.cli.main import main

main()
"""


def test_a_network_that_hangs_does_not_keep_the_process(bundle: Bundle) -> None:
    arguments = ["serve", f"small={bundle.path}", "--port", "0", "--backend", "onnxruntime", "--timeout", "0.5"]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", HANGING, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split(" at ")[1].strip()
        assert httpx.get(f"{url}/v1/images/99.png", timeout=60).status_code in (503, 504)
        wait_for(lambda: httpx.get(f"{url}/v2/health/live").status_code == 503)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert [event["event"] for line in log.splitlines() if "does not return" in (event := json.loads(line))["event"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "does not exist"),
        (["{bundle}", "{bundle}"], "two bundles are named"),
        (["a.b={bundle}"], "letters, digits"),
        (["{bundle}", "--precision", "fp8"], "no 'fp8' network"),
        (["{bundle}", "--port", "{taken}"], "choose another with --port"),
        (["missing", "--port", "0", "--grpc-port", "{taken}"], "choose another with --grpc-port"),
        (["missing", "--port", "{free}", "--grpc-port", "{free}"], "ports of their own"),
        (["{bundle}", "--host", "no.such.host.invalid"], "cannot listen on"),
        (["{bundle}", "--host", "a..b"], "no name of a host"),
        (["{bundle}", "--max-queue", "3"], "no room for a request of 64"),
        (["{bundle}", "--api-key-file", "{bundle}/nothing"], "does not exist"),
    ],
)
def test_a_mistake_at_the_start_is_one_line_with_exit_code_2(bundle: Bundle, arguments: list[str], message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        values = {"bundle": str(bundle.path), "free": str(free.getsockname()[1])}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values["taken"] = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "stylert.cli.main", "serve", "--quiet", *(a.format(**values) for a in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
