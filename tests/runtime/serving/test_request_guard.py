"""Limits hold against hostile clients, and other clients notice nothing."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.runtime.bundle import Bundle
from stylert.runtime.serving.server import ImageServer
from tests.draws import fuzz_budget
from tests.runtime.serving.conftest import LOOPS, running, source

KEY = "correct horse battery"


@pytest.fixture(scope="module")
def strict(bundle: Bundle) -> Iterator[ImageServer]:
    """A server with a key and low limits."""
    limits = {"max_body": 20_000, "header_seconds": 0.5, "body_seconds": 0.5, "max_connections": 12, "idle_seconds": 60}
    with running([source(bundle)], api_key=KEY, **limits) as server:
        yield server


def connect(server: ImageServer) -> socket.socket:
    address = urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port), 30)
    connection.settimeout(30)
    return connection


def answer_of(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def works(server: ImageServer) -> bool:
    return httpx.get(f"{server.url}/v1/images/1.png", headers={"x-api-key": KEY}, timeout=60).status_code == 200


def test_everything_but_probes_and_the_page_needs_the_key(strict: ImageServer) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/", "/docs", "/openapi.json", "/page/main.js"):
        assert httpx.get(strict.url + path).status_code == 200
    for path in ("/v1/models", "/v1/images/1.png", "/metrics", "/v2", "/v2/models/small", "/nothing", "/page", "//"):
        for headers in ({}, {"x-api-key": KEY[:-1]}, {"authorization": f"Basic {KEY}"}, {"x-api-key": "ключ".encode()}):
            assert httpx.get(strict.url + path, headers=headers).status_code == 401  # type: ignore[arg-type]
    for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
        assert httpx.get(f"{strict.url}/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path", ["/page/../application.py", "/page/..%2fapplication.py", "/page//etc/passwd", "/page/%2e%2e/%2e%2e/bundle.py"]
)
def test_the_page_serves_its_own_files_alone(strict: ImageServer, path: str) -> None:
    with connect(strict) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nConnection: close\r\n\r\n".encode())
        assert answer_of(connection).split()[1] == b"404"


def test_pages_of_the_web_cannot_use_a_server_on_this_machine(server: ImageServer) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers={"host": "evil.example"}).status_code == 421
    assert httpx.post(f"{server.url}/v1/images", headers={"origin": "https://evil.example"}).status_code == 403
    own = {"origin": server.url, "host": server.url.removeprefix("http://")}
    assert httpx.post(f"{server.url}/v1/images", headers=own, timeout=60).status_code == 200


def test_a_body_beyond_the_limit_is_refused_before_it_is_read(strict: ImageServer) -> None:
    with connect(strict) as connection:
        connection.sendall(
            f"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Length: 99999999999\r\n\r\n".encode()
        )
        assert b" 413 " in answer_of(connection).splitlines()[0]

    with connect(strict) as connection:  # this client would send it only after consent
        head = f"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\nContent-Length: 30000\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        assert answer_of(connection).startswith(b"HTTP/1.1 413 ")

    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" " * 1000

    with suppress(httpx.WriteError):  # the server may close the connection while the client still sends
        assert httpx.post(f"{strict.url}/v1/images", content=endless(), headers={"x-api-key": KEY}).status_code == 413
    assert works(strict)


def test_a_client_that_reads_no_answer_before_it_has_sent_all_sees_the_status(server: ImageServer) -> None:
    """A system keeps a few MiB of what a client sends. So the body is larger, and a closed connection would be an error."""
    address = urlsplit(server.url)
    for body in (b" " * (9 * 2**20), iter([b" " * 2**20] * 9)):
        client = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        client.request("POST", "/v1/images", body)
        assert client.getresponse().status == 413
        client.close()
    assert httpx.get(f"{server.url}/v2/health/live").status_code == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX", b"408"),
        (b"", b"408"),
        (
            b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nX-API-Key: %s\r\nContent-Length: 100\r\n\r\n{" % KEY.encode(),
            b"408",
        ),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 40_000, b"431"),
        (b"GET /" + b"y" * 40_000, b"431"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 40_000 + b"\r\n\r\n", b"431"),  # complete at once
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 40_000 + b"\r\nContent-Length: 3\r\n\r\nabc", b"431"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[::1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"\x16\x03\x01 nonsense\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"421"),
    ],
)
def test_slow_large_and_broken_heads_end_with_a_status(strict: ImageServer, head: bytes, status: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(head)
        connection.settimeout(5)
        data = b""
        try:
            while b"\r\n\r\n" not in data and (part := connection.recv(65536)):
                data += part
        except ConnectionResetError:
            pass
    assert data.split()[1:2] == [status]
    assert b"content-type: application/json" in data.lower()


NAMES = (
    "host", "origin", "content-length", "transfer-encoding", "authorization", "x-api-key", "x-request-id", "accept",
    "if-none-match", "content-encoding", "content-type", "inference-header-content-length", "range", "expect", "connection",
)  # fmt: skip
header_values = st.binary(max_size=12) | st.sampled_from(
    [
        b"localhost",
        b"http://localhost",
        b"http://[::1",
        b"[::1",
        b"//\xbd",
        b"a:b:c",
        b"\xff",
        b"0",
        b"-1",
        b"\xb2",
        b"9" * 5000,
        b"*/*",
    ]
)


@settings(max_examples=fuzz_budget(150, 5000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["GET", "POST"]),
    st.sampled_from(["/", "/v1/images", "/v1/images/1.png", "/v2/models/small/infer", "/page/main.js", "/nothing"]),
    st.lists(st.tuples(st.sampled_from(NAMES), header_values), max_size=4),
)
def test_no_header_is_a_failure_of_the_server(
    server: ImageServer, method: str, path: str, headers: list[tuple[str, bytes]]
) -> None:
    """The guard is called as the server calls it. Below it, the parser of HTTP has its own rules for bytes."""
    fields = [(b"host", b"localhost"), *((name.encode(), value) for name, value in headers if name != "host")]
    for host in [value for name, value in headers if name == "host"][:1]:
        fields[0] = (b"host", host)
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": fields,
        "http_version": "1.1", "scheme": "http", "client": None, "server": None, "root_path": "",
    }  # fmt: skip
    sent: list[Any] = []

    async def call() -> None:
        messages = iter([{"type": "http.request", "body": b"{}"}])

        async def receive() -> Any:
            for message in messages:
                return message
            return await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            sent.append(message)

        await server._guard(scope, receive, send)

    asyncio.run_coroutine_threadsafe(call(), LOOPS[server]).result(60)
    assert 200 <= sent[0]["status"] < 500


def test_a_slow_client_that_sends_byte_by_byte_is_cut_off(strict: ImageServer) -> None:
    with connect(strict) as connection:
        sent = 0
        try:
            for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 1000:
                connection.sendall(bytes([byte]))
                sent += 1
                time.sleep(0.02)
        except OSError:
            pass
        assert sent < 1000


@pytest.mark.parametrize("part", [b"T: " + b"x" * 1000 + b"\r\n", b"x" * 1000], ids=["many", "one without an end"])
def test_fields_behind_a_body_in_chunks_are_bounded(strict: ImageServer, part: bytes) -> None:
    with connect(strict) as connection:
        connection.sendall(
            b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "
        )
        sent = 0
        try:
            while sent < 2**24:
                connection.sendall(part * 16)
                sent += len(part) * 16
        except OSError:  # the server has closed the connection
            pass
    assert sent < 2**24
    assert works(strict)


def test_a_body_in_chunks_of_one_byte_is_read(strict: ImageServer) -> None:
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"seeds": "nothing"' + b" " * 4000 + b"}") + b"0\r\n\r\n"
    with connect(strict) as connection:
        head = b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Api-Key: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head % KEY.encode() + body)
        assert answer_of(connection).split()[1] in (b"400", b"422")


def test_too_many_connections_are_refused_and_others_go_on(strict: ImageServer) -> None:
    held = []
    try:
        for _ in range(12):
            held.append(connect(strict))
            held[-1].sendall(b"GET / HTTP/1.1\r\n")
        with connect(strict) as late:
            late.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            refused = answer_of(late)
        assert b" 503 " in refused.splitlines()[0] + b" "
        assert b"retry-after" in refused.lower()
    finally:
        for connection in held:
            connection.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if works(strict):
                return
        except httpx.HTTPError:
            pass
    raise AssertionError("the server did not recover")


def test_a_full_queue_is_status_503_with_a_time_and_nothing_accepted_is_lost(bundle: Bundle) -> None:
    with running([source(bundle)], max_queue=8, max_images=8, max_batch=2) as server:
        gate, compute = hold(server)
        with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(16) as pool:
            accepted = [pool.submit(client.post, "/v1/images", json={"seeds": [i]}) for i in range(9)]  # one runs, eight wait
            model = server.store.find("small")
            wait_for(lambda: model.batcher.waiting == 8)
            for kind in (client.post("/v1/images", json={"seeds": [9]}), client.post("/v2/models/small/infer", json=SEED)):
                assert kind.status_code == 503
                assert int(kind.headers["retry-after"]) >= 1
            gate.set()
            assert sorted(call.result().status_code for call in accepted) == [200] * 9
        compute()


def test_a_client_that_goes_away_leaves_the_queue(bundle: Bundle) -> None:
    with running([source(bundle)], max_batch=1) as server:
        gate, restore = hold(server)
        model = server.store.find("small")
        with connect(server) as first, connect(server) as second:
            for connection, body in ((first, b'{"seeds":[1]}'), (second, b'{"seeds":"0-30"}')):
                connection.sendall(
                    b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                )
                wait_for(lambda: model.batcher.running == 1)
            wait_for(lambda: model.batcher.waiting == 31)
        wait_for(lambda: model.batcher.waiting == 0)
        gate.set()
        restore()
        assert httpx.get(f"{server.url}/v1/images/1.png", timeout=60).status_code == 200


def test_a_request_that_takes_too_long_is_status_504(bundle: Bundle) -> None:
    with running([source(bundle)], request_seconds=0.3) as server:
        gate, restore = hold(server)
        assert httpx.get(f"{server.url}/v1/images/1.png", timeout=60).status_code == 504
        gate.set()
        restore()


def test_a_network_that_hangs_is_told_to_those_who_wait_and_to_probes(bundle: Bundle) -> None:
    with running([source(bundle)], request_seconds=0.5, max_batch=1, grpc_port=0) as server:
        gate, restore = hold(server)
        with httpx.Client(base_url=server.url, timeout=60) as client, ThreadPoolExecutor(4) as pool:
            first = pool.submit(client.get, "/v1/images/1.png")
            wait_for(lambda: server.store.find("small").batcher.running == 1)
            time.sleep(0.2)  # the others still have time when the call counts as hung
            waiting = [pool.submit(client.get, f"/v1/images/{seed}.png") for seed in (2, 3)]
            assert first.result().status_code in (503, 504)  # its own time ends with that of the call
            for answer in [*(call.result() for call in waiting), client.post("/v2/models/small/infer", json=SEED)]:
                assert answer.status_code == 503
                assert "not returned" in answer.json()["error"]
                assert int(answer.headers["retry-after"]) >= 1
            for probe in ("health/live", "health/ready", "models/small/ready"):
                answer = client.get(f"/v2/{probe}")
                assert (answer.status_code, "small does not return" in answer.json()["error"]) == (503, True)
            gate.set()
            wait_for(lambda: not server.store.hung)
            for path in ("/v1/images/1.png", "/v2/health/live", "/v2/health/ready"):
                assert client.get(path).status_code == 200
        restore()


SEED = {"inputs": [{"name": "seed", "shape": [1], "datatype": "INT64", "data": [1]}]}


def hold(server: ImageServer) -> tuple[threading.Event, object]:
    """Make the network wait for an event. Returns the event, and the function that lets calls through again."""
    generator, gate = server.store.find("small").generator, threading.Event()
    synthesize = generator.synthesize

    def waiting(*arguments: Any, **options: Any) -> object:
        assert gate.wait(60)
        return synthesize(*arguments, **options)

    generator.synthesize = waiting  # type: ignore[assignment, method-assign]

    def restore() -> None:
        generator.synthesize = synthesize  # type: ignore[method-assign]

    return gate, restore


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)
