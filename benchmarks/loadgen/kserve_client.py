"""A thin client of the KServe v2 protocol over HTTP, for tests of a server: kept connections, binary tensors, requests made in advance.

A request is two byte strings: a head and a JSON document that all requests of a size share, and the bytes of the seeds.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from stylert.benchmarks.loadgen.systems import Compute, System, Way
from stylert.benchmarks.scenarios.measure import PSI
from stylert.core.errors import BackendError, InputError, shown, shown_line
from stylert.core.files.json_documents import Document, read_document
from stylert.runtime.input_checks import whole_number
from stylert.runtime.serving.settings import OWN_RANGES

#: Connections for samples that arrive one by one. So many images may wait or be computed in the server.
CONNECTIONS = 64
#: Images that are under way when there are many, over fewer connections if each request has several.
IN_FLIGHT = 64
#: Seconds without a byte of an answer.
TIMEOUT_S = 120.0
MAX_HEAD = 2**16
MAX_BODY = 2**31


@dataclass(frozen=True)
class RemoteTarget:
    """A running server of the KServe v2 protocol, such as `stylert serve`.

    Attributes:
        url: Its address, `http://host:port`.
        model: Name of the model; None for the first that the server names.
        key: The API key; None if the server needs none.
        batches: The numbers of images in a request that are tried for many images.

    Raises:
        InputError: The address is none, or another attribute has another form.
    """

    url: str
    model: str | None
    key: str | None
    batches: tuple[int, ...]

    def __post_init__(self) -> None:
        self.address()
        if self.model is not None and not _is_name(self.model):
            raise InputError(f"--model is the name of a model of the server, not {shown(self.model)}")
        if self.key is not None and not (isinstance(self.key, str) and self.key.isascii() and self.key.isprintable()):
            raise InputError("an API key has printable ASCII characters alone")
        if not isinstance(self.batches, tuple) or not self.batches:
            raise InputError(f"the numbers of images in a request are such as (1, 8), not {shown(self.batches)}")
        for batch in self.batches:
            whole_number(batch, "the number of images in a request", *map(int, OWN_RANGES["max_images"]))

    def address(self) -> tuple[str, int]:
        """Host and port. Raises InputError if the address has another form."""
        host, port = None, 0
        if isinstance(self.url, str):
            with suppress(ValueError):  # UnicodeError, too: a part of the name is empty, or has more than 63 characters
                parts = urlsplit(self.url)
                (parts.hostname or "").encode("idna")
                host, port = parts.hostname, parts.port or 80
        if host is None or parts.scheme != "http" or parts.path not in ("", "/") or parts.query or parts.username:
            raise InputError(f"--url is the address of a server, such as http://127.0.0.1:8000, not {shown(self.url)}")
        return host, port

    def open(self) -> System:
        """Connect, and read the facts of the model.

        Raises:
            BackendError: There is no server, or it does not answer as the protocol says.
        """
        connections = [Connection(*self.address(), self.key) for _ in range(CONNECTIONS)]
        first = connections[0]
        name = self.model
        if name is None:
            served = _document(first.ask(first.request("POST", "/v2/repository/index", b"{}")).raw, list[_Named])
            if not served:
                raise BackendError(f"the server at {self.url} names no model; name one with --model")
            name = served[0].name
        path = f"/v2/models/{quote(name, safe='')}"
        facts = _document(first.ask(first.request("GET", path)).raw, _Facts)
        inputs = [tensor.name for tensor in facts.inputs]
        if "seed" not in inputs:
            raise BackendError(f"model {shown(name)} at {self.url} takes no seed; it must be one of stylert")
        requests = {n: _infer_head(first, path, n, "label" in inputs) for n in range(1, max(self.batches) + 1)}
        computes = tuple(_compute(connection, requests) for connection in connections)
        ways = tuple(
            Way(f"{count} connections, {batch} image{'s' * (batch > 1)} each", computes[:count], batch)
            for batch in self.batches
            for count in [max(1, IN_FLIGHT // batch)]
        )

        def close() -> None:
            for connection in connections:
                connection.close()

        return System(f"{self.url} {name}", computes[0], ways, computes, 1, is_server=True, close=close)


@dataclass(frozen=True)
class Answer:
    """The body of an answer.

    Attributes:
        raw: All its bytes. They are overwritten by the next answer of the connection.
        json_length: Bytes of the document before the tensors.
    """

    raw: memoryview
    json_length: int


class Connection:
    """A connection that stays open and has one request at a time. It is made when it is first needed.

    Args:
        host: Name or address of the server.
        port: Its port.
        key: The API key, or None.
    """

    def __init__(self, host: str, port: int, key: str | None) -> None:
        self._address, self._socket = (host, port), None  # type: tuple[str, int], socket.socket | None
        shown_host = f"[{host}]" if ":" in host else host
        self._headers = f"Host: {shown_host}:{port}\r\n" + ("" if key is None else f"Authorization: Bearer {key}\r\n")
        self._buffer = bytearray(MAX_HEAD)

    def request(self, method: str, path: str, body: bytes = b"", headers: str = "", more: int = 0) -> bytes:
        """A request. `more` bytes may follow it, which belong to the body."""
        length = "" if method == "GET" else f"Content-Length: {len(body) + more}\r\n"
        return f"{method} {path} HTTP/1.1\r\n{self._headers}{length}{headers}\r\n".encode("latin-1", "replace") + body

    def ask(self, request: bytes) -> Answer:
        """Send a request and read its answer. A connection that the server has closed in the meantime is made again.

        Raises:
            BackendError: There is no server, it stops within an answer, or its status is not 200.
        """
        is_kept = self._socket is not None
        try:
            answer = self._exchange(request)
            if answer is None and is_kept:
                answer = self._exchange(request)
        except OSError as e:
            self.close()
            raise BackendError(f"no answer from {self._address[0]}:{self._address[1]}: {e.strerror or e}") from None
        if answer is None:
            raise BackendError(f"the server at {self._address[0]}:{self._address[1]} closes the connection without an answer")
        return answer

    def close(self) -> None:
        """Close the connection. The next request makes another one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, request: bytes) -> Answer | None:
        """The answer, or None if the connection ended before its first byte."""
        if self._socket is None:
            self._socket = socket.create_connection(self._address, TIMEOUT_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket.sendall(request)
            count = self._socket.recv_into(self._buffer)
        except (BrokenPipeError, ConnectionResetError):
            count = 0
        if not count:
            self.close()
            return None
        while (end := self._buffer.find(b"\r\n\r\n", 0, count)) < 0:
            if count > MAX_HEAD // 2:
                raise BackendError("the server sends a head that is too long")
            count += self._receive(memoryview(self._buffer)[count:])
        head = bytes(self._buffer[: end + 2])
        length = _header(head, b"content-length")
        if length is None or length > MAX_BODY:
            raise BackendError(f"the server sends an answer without a usable length: {shown_line(repr(head))}")
        end += 4
        if end + length > len(self._buffer):
            self._buffer = self._buffer[:count] + bytearray(end + length - count)
        view = memoryview(self._buffer)[: end + length]
        while count < end + length:
            count += self._receive(view[count:])
        if re.search(rb"\r\nconnection: *close", head, re.IGNORECASE):
            self.close()
        body = view[end:]
        if head[9:12] != b"200":
            raise BackendError(
                f"the server answers {shown_line(head[9:12].decode(errors='replace'))}: "
                f"{shown_line(bytes(body[:500]).decode(errors='replace'))}"
            )
        json_length = _header(head, b"inference-header-content-length")
        return Answer(body, length if json_length is None else json_length)

    def _receive(self, place: memoryview) -> int:
        assert self._socket is not None
        count = self._socket.recv_into(place)
        if not count:
            self.close()
            raise BackendError("the server closes the connection within an answer")
        return count


def _infer_head(connection: Connection, path: str, count: int, has_label: bool) -> bytes:
    """A request for `count` images, without the bytes of its seeds."""
    inputs: list[dict[str, Any]] = [
        {"name": "psi", "datatype": "FP32", "shape": [1], "data": [PSI]},
        *([{"name": "label", "datatype": "INT32", "shape": [1], "data": [0]}] if has_label else []),
        {"name": "seed", "datatype": "INT64", "shape": [count], "parameters": {"binary_data_size": 8 * count}},
    ]
    document = {"inputs": inputs, "outputs": [{"name": "image", "parameters": {"binary_data": True}}]}
    body = json.dumps(document, separators=(",", ":")).encode()
    header = f"Inference-Header-Content-Length: {len(body)}\r\nContent-Type: application/octet-stream\r\n"
    return connection.request("POST", f"{path}/infer", body, header, 8 * count)


def _compute(connection: Connection, requests: dict[int, bytes]) -> Compute:
    def compute(numbers: Sequence[int]) -> Sequence[np.ndarray]:
        answer = connection.ask(requests[len(numbers)] + np.array(numbers, "<i8").tobytes())
        pixels = np.frombuffer(answer.raw[answer.json_length :], np.uint8)
        if not pixels.size or pixels.size % len(numbers):
            raise BackendError(f"the server sends {pixels.size} bytes for {len(numbers)} images")
        return pixels.reshape(len(numbers), -1)  # type: ignore[return-value]

    return compute


def _header(head: bytes, name: bytes) -> int | None:
    found = re.search(rb"\r\n" + name + rb": *(\d{1,12})\r\n", head, re.IGNORECASE)
    return None if found is None else int(found[1])


@dataclass(frozen=True)
class _Named:
    """A model of a list of models, or a tensor of a model."""

    name: str


@dataclass(frozen=True)
class _Facts:
    """The facts of a model that are used here."""

    inputs: list[_Named]


def _is_name(value: object) -> bool:
    if not isinstance(value, str) or not value:
        return False
    return not any(0xD800 <= ord(c) < 0xE000 for c in value)  # bytes of a command line that are no UTF-8


def _document(body: memoryview, kind: type[Document]) -> Document:
    return read_document(bytes(body), kind, "the server's answer", BackendError)
