"""A real server on a free port, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from stylert.runtime.bundle import Bundle
from stylert.runtime.serving.dragging import Dragger
from stylert.runtime.serving.server import BundleSource, ImageServer
from stylert.runtime.serving.settings import ServerSettings

#: The event loop of each server.
LOOPS: dict[ImageServer, asyncio.AbstractEventLoop] = {}


@contextmanager
def running(
    sources: list[BundleSource], directions: Sequence[Path] = (), dragger: Dragger | None = None, **changes: object
) -> Iterator[ImageServer]:
    """A server that accepts connections until the context ends. `changes` are fields of `ServerSettings`."""
    defaults = {"port": 0, "drain_delay": 0.05, "drain_seconds": 20}
    settings = ServerSettings(**{**defaults, **changes})  # type: ignore[arg-type]
    server = ImageServer(sources, settings, directions, dragger)
    ready = threading.Event()

    def started() -> None:
        LOOPS[server] = asyncio.get_running_loop()
        ready.set()

    thread = threading.Thread(target=server.run, args=[started])
    thread.start()
    assert ready.wait(120)
    try:
        yield server
    finally:
        LOOPS[server].call_soon_threadsafe(server.stop)
        thread.join(60)
        assert not thread.is_alive(), "the server did not end"


def source(bundle: Bundle, *precisions: str, name: str = "small") -> BundleSource:
    return BundleSource(name, bundle.path, precisions, "onnxruntime", 1)


@pytest.fixture(scope="session")
def server(bundle: Bundle) -> Iterator[ImageServer]:
    """The small bundle in fp32 and int8, over HTTP and gRPC."""
    with running([source(bundle, "fp32", "int8")], grpc_port=0) as server:
        yield server


@pytest.fixture(scope="session")
def client(server: ImageServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client
