"""Shards that a Ray cluster makes: each seed once, also after a kill and after the loss of a node."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stylert.core.errors import BackendError, OutputError
from stylert.runtime.bundle import Bundle
from stylert.runtime.shards import ray_tasks
from stylert.runtime.shards.ray_tasks import make_shards_on_ray
from tests.ray_cluster import cluster
from tests.runtime.shards.reading import images_of
from tests.runtime.shards.test_making import command, work_of


def test_a_missing_ray_is_one_line(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tasks, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"pip install 'stylert\[ray\]'"):
        make_shards_on_ray(work_of(bundle), bundle, tmp_path / "out", "local")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    pytest.importorskip("ray")
    with cluster() as nodes:
        yield nodes


@pytest.mark.long
def test_two_nodes_make_every_seed_once_though_one_is_lost(bundle: Bundle, tmp_path: Path, nodes: Any) -> None:
    work, out = work_of(bundle, seeds="0-999", shards=50, batch=8), tmp_path / "out"
    lost = threading.Event()

    def report(_: str, done: int, total: int) -> None:
        if done >= 100 and not lost.is_set():
            lost.set()
            nodes.kill_second()

    assert make_shards_on_ray(work, bundle, out, nodes.address, report=report) == 50
    assert lost.is_set()
    assert sorted(images_of(out)) == list(range(1000))
    visible = [
        name for name in os.listdir(out) if not name.startswith(".")
    ]  # a killed task may leave a partial to the next command
    assert len(visible) == 51
    assert make_shards_on_ray(work, bundle, out, nodes.address) == 0
    with pytest.raises(OutputError, match="psi"):
        make_shards_on_ray(work_of(bundle, seeds="0-999", shards=50, batch=8, psi=1.0), bundle, out, nodes.address)


@pytest.mark.long
def test_a_killed_driver_is_resumed(bundle: Bundle, tmp_path: Path, nodes: Any) -> None:
    out = tmp_path / "out"
    words = command(bundle, out, "--ray", nodes.address)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 180
        while len(list(out.glob("seeds-*"))) < 3 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert (done.returncode, "800 images" in done.stdout) == (0, True), done.stderr
    assert sorted(images_of(out)) == list(range(800))
    # The same folder goes on without Ray.
    (out / sorted(path.name for path in out.glob("seeds-*"))[7]).unlink()
    done = subprocess.run(command(bundle, out), capture_output=True, text=True, timeout=300)
    assert "wrote 1 of 40 shards" in done.stdout, done.stderr
    assert sorted(images_of(out)) == list(range(800))


@pytest.mark.long
def test_there_is_no_cluster_at_an_address(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(BackendError, match="no Ray cluster"):
        make_shards_on_ray(work_of(bundle), bundle, tmp_path / "out", "127.0.0.1:9")
