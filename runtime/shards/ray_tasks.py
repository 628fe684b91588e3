"""Spreads the shards of a work over a Ray cluster. It needs the extra `ray`.

A task makes one shard. Every node must see the bundle and the folder of the shards under the same paths. The tasks of a node that
is lost run again elsewhere. A shard that two tasks make is the same one, and appears whole both times.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stylert.core.errors import BackendError, OutputError, StylertError, missing_extra, shown_line
from stylert.core.files.locks import locked_folder
from stylert.core.progress import Progress
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.shards.making import check_work, loaded, make_shard
from stylert.runtime.shards.work import Shard, ShardWork, begin

#: The address that starts a cluster on this machine, for the time of the work.
LOCAL = "local"
#: Tasks that are known to Ray for each processor, so that none waits and the list stays short.
TASKS_PER_CPU = 2
#: How often a task may run again because its node or process was lost.
RETRIES = 10
#: Seconds in which a cluster must accept a connection.
REACH_SECONDS = 10.0
#: Memory of Ray's object store on a cluster of this machine. Shards are written to files, and only their names are objects.
OBJECT_STORE_BYTES = 200 * 2**20


def make_shards_on_ray(
    work: ShardWork, bundle: Bundle, folder: Path, address: str, threads: int = 1, report: Progress = lambda *_: None
) -> int:
    """Make the shards that are missing in a folder, on a cluster.

    Args:
        work: The work.
        bundle: Its bundle.
        folder: The folder, on a file system that all nodes share.
        address: Of a running cluster, such as `auto` or `host:6379`, or `local` for one that runs for the time of the work.
        threads: Processors of a task, and CPU threads of its networks.
        report: Called after each shard with the number of images that are there.

    Returns:
        How many shards were made.

    Raises:
        StylertError: As `make_shards`, or Ray is missing, has no such cluster, or lost a task too often.
    """
    check_ray()
    check_work(work, bundle)
    loaded(work, bundle, threads).close()  # a mistake in the options is found here, and not on every node
    with locked_folder(folder):
        missing = begin(folder, work)
        done = work.images - sum(map(len, missing))
        if missing:
            with _cluster(address):
                for shard in _made(work, bundle, folder.absolute(), missing, threads):
                    done += len(shard)
                    report("generate", done, work.images)
    if absent := begin(folder, work):
        raise OutputError(f"{absent[0].name} is not in {folder}: do all nodes share this folder?")
    return len(missing)


def check_ray() -> None:
    """Raise BackendError if Ray is not installed."""
    if find_spec("ray") is None:
        raise missing_extra("Ray", "ray")


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    import ray

    local: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    options: dict[str, Any] = local if address == LOCAL else {}
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError) as e:
        raise BackendError(f"there is no Ray cluster at {address!r}: {shown_line(str(e))}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise BackendError if nothing listens at `host:port`. Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
        except (OSError, OverflowError) as e:
            raise BackendError(f"there is no Ray cluster at {address!r}: {e}") from None


def _made(work: ShardWork, bundle: Bundle, folder: Path, missing: list[Shard], threads: int) -> Iterator[Shard]:
    """The shards as they are there. Raises the error of a task."""
    import ray

    task = ray.remote(num_cpus=threads, max_retries=RETRIES)(_make)
    shared = ray.put((work, bundle.path.absolute(), folder, threads))
    waiting = list(reversed(missing))
    running: dict[Any, Shard] = {}
    while waiting or running:
        most = max(1, int(ray.cluster_resources().get("CPU", 1)) * TASKS_PER_CPU // threads)
        while waiting and len(running) < most:
            shard = waiting.pop()
            running[task.remote(shared, shard)] = shard
        ready, _ = ray.wait(list(running), num_returns=1)
        try:
            ray.get(ready)
        except ray.exceptions.RayTaskError as e:
            if isinstance(e.cause, StylertError):
                raise e.cause from None
            raise BackendError(f"a task of Ray failed: {shown_line(str(e.cause))}") from None
        except ray.exceptions.RayError as e:
            raise BackendError(f"Ray lost a task: {shown_line(str(e))}") from None
        for reference in ready:
            yield running.pop(reference)


#: The generator of the work that this process of Ray does.
_current: tuple[ShardWork, Generator] | None = None


def _make(shared: tuple[ShardWork, Path, Path, int], shard: Shard) -> None:
    """Make a shard, in a process of Ray. The generator stays for the next one."""
    global _current
    work, path, folder, threads = shared
    if _current is None or _current[0] != work:
        if _current is not None:
            _current[1].close()
            _current = None
        _current = work, loaded(work, Bundle.load(path), threads)
    make_shard(work, [_current[1]], shard, folder)
