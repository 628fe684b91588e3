"""The client of the KServe protocol: answers in any pieces, kept connections that end, and servers that misbehave."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest

from stylert.benchmarks.loadgen.kserve_client import CONNECTIONS, Connection, RemoteTarget
from stylert.core.errors import BackendError, InputError
from stylert.runtime.bundle import Bundle
from tests.runtime.serving.conftest import running, source

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\ninference-header-content-length: 2\r\n\r\n{}abc"


@contextmanager
def answering(*connections: list[bytes]) -> Iterator[Connection]:
    """A connection to a server that sends these pieces, one after each request, and then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for pieces in connections:
                peer, _ = listener.accept()
                with peer, suppress(ConnectionError):  # a client may leave within an answer
                    for piece in pieces:
                        if not peer.recv(65536):
                            break
                        for i in range(0, len(piece), 7):
                            peer.sendall(piece[i : i + 7])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        connection = Connection("127.0.0.1", listener.getsockname()[1], None)
        yield connection
        connection.close()
        thread.join(30)


def test_a_connection_that_ended_after_an_answer_is_made_again() -> None:
    with answering([GOOD], [GOOD, GOOD]) as connection:
        for _ in range(3):
            answer = connection.ask(b"a request")
            assert bytes(answer.raw) == b"{}abc"
            assert answer.json_length == 2


def test_an_answer_larger_than_the_buffer_is_read_whole() -> None:
    body = np.random.default_rng(0).bytes(300_000)
    with answering([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)]) as connection:
        answer = connection.ask(b"a request")
        assert (bytes(answer.raw), answer.json_length) == (body, len(body))


@pytest.mark.parametrize(
    ("pieces", "word"),
    [
        ([], "without an answer"),
        ([GOOD[:-1]], "within an answer"),
        ([GOOD.replace(b"200", b"503")], "503"),
        ([GOOD.replace(b": 5", b": five")], "length"),
        ([b"x" * 100_000], "too long"),
        ([GOOD.replace(b"200", b"\xff\xfe2")], "the server answers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_server_that_misbehaves_is_named(pieces: list[bytes], word: str) -> None:
    with answering(pieces) as connection, pytest.raises(BackendError, match=word):
        connection.ask(b"a request")


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8000", "https://x", "http://", "http://x/y", "http://x:port", "http://a@x", "ftp://x"),
        *("http://a..b:1", f"http://{'x' * 300}:1", None, 3, b"http://x"),
    ],
)
def test_only_an_address_of_a_server_is_taken(url: Any) -> None:
    with pytest.raises(InputError, match="--url"):
        RemoteTarget(url, None, None, (1,))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("batches", value) for value in ((), (0,), None, 1, (1, "2"), (True,), (10**9,))),
        *(("model", value) for value in (3, "", b"m", "\udcff")),
        *(("key", value) for value in (3, "a\r\nX: y", "\u20ac", b"key")),
    ],
)
def test_an_attribute_of_another_form_is_refused_in_one_line(field: str, value: Any) -> None:
    good: dict[str, Any] = {"url": "http://127.0.0.1:1", "model": "m", "key": "a secret", "batches": (1, 4)}
    RemoteTarget(**good)
    with pytest.raises(InputError) as refusal:
        RemoteTarget(**good | {field: value})
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("model", [None, "m"])
@pytest.mark.parametrize(
    "document", [b"{}", b'{"inputs": null}', b'{"inputs": 5}', b'{"inputs": [5]}', b'{"inputs": [{"name": 5}]}', b"[5]", b"x"]
)
def test_an_answer_of_another_form_is_named(document: bytes, model: str | None) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(document), document)
    with answering([answer]) as connection, pytest.raises(BackendError, match="the server's answer is not valid"):
        RemoteTarget(f"http://127.0.0.1:{connection._address[1]}", model, None, (1,)).open()


def test_there_is_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(BackendError, match="no answer"):
        RemoteTarget(f"http://127.0.0.1:{port}", None, None, (1,)).open()


@pytest.mark.slow
def test_a_real_server_refuses_in_one_line(bundle: Bundle) -> None:
    with running([source(bundle, "fp32")], api_key="a secret", max_images=2) as server:
        with pytest.raises(BackendError, match="401"):
            RemoteTarget(server.url, None, None, (1,)).open()
        with pytest.raises(BackendError, match="404"):
            RemoteTarget(server.url, "absent", "a secret", (1,)).open()
        system = RemoteTarget(server.url, None, "a secret", (3,)).open()
        assert len(system.computes) == CONNECTIONS
        with pytest.raises(BackendError, match="1 to 2 images"):
            system.ways[0].computes[0]([0, 1, 2])
        system.close()
