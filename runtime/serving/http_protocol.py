"""Limits below the routes: the number of connections, and the time and size of a request's head.

uvicorn waits without end for the rest of a head, and with `httptools` it takes a head of any size, and fields of any size behind a body in
chunks. A client that sends one byte a minute, or bytes without end, would so hold a connection or the memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from stylert.runtime.serving.joined_head import JoinedHead
from stylert.runtime.serving.refusals import error_body
from stylert.runtime.serving.settings import ServerSettings

#: Bytes of a request line with its headers.
MAX_HEAD = 32 * 1024
#: Bytes around one byte of content, where each chunk has a single one.
MAX_CHUNK_HEAD = 16
#: Seconds in which a connection may still send its request when the server stops. The server accepted it, and its client cannot know.
FRESH_SECONDS = 1.0


def limited_protocol(settings: ServerSettings) -> type[HttpToolsProtocol]:
    """The class of connections with the limits of these settings."""
    return type("LimitedProtocol", (LimitedProtocol,), {"settings": settings})


class LimitedProtocol(HttpToolsProtocol):
    """A connection with the limits of `settings`."""

    settings: ServerSettings

    _head_bytes = 0
    _in_body = False
    #: Bytes after the head, and those of them that are content. The others are lengths of chunks, and fields behind the last.
    _body_bytes, _content_bytes = 0, 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(JoinedHead(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > self.settings.max_connections:
            self._refuse(b"503 Service Unavailable", f"there are {self.settings.max_connections} connections already")
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._in_body:
            self._head_bytes += len(data)
            if self._head_timer is None:
                self._start_timer()
        else:
            self._body_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        too_many = self._body_bytes - self._content_bytes > MAX_HEAD + MAX_CHUNK_HEAD * self._content_bytes
        if too_many if self._in_body else self._head_bytes > MAX_HEAD:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_body, self._head_bytes = True, 0
        self._body_bytes = self._content_bytes = 0
        # A head that arrives at once is complete before its bytes are counted above.
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD:
            self._refuse_head()
        elif not self.transport.is_closing():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._content_bytes += len(body)
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if not self.transport.is_closing():
            super().on_message_complete()

    def shutdown(self) -> None:
        if self.cycle is None or self._head_bytes:
            self._stop_timer()
            self._head_timer = self.loop.call_later(FRESH_SECONDS, self.transport.close)
        else:
            super().shutdown()

    def _start_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.settings.header_seconds, self._late)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def send_400_response(self, msg: str) -> None:
        self._refuse(b"400 Bad Request", "this is no request of HTTP")

    def _late(self) -> None:
        self._refuse(b"408 Request Timeout", "the head of the request took too long")

    def _refuse_head(self) -> None:
        self._refuse(b"431 Request Header Fields Too Large", f"the head of a request has at most {MAX_HEAD} bytes")

    def _refuse(self, status: bytes, message: str) -> None:
        body = error_body(message)
        head: list[Any] = [
            b"HTTP/1.1 ",
            status,
            b"\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\n",
        ]
        self.transport.write(b"".join([*head, b"content-length: %d\r\n\r\n" % len(body), body]))
        self.transport.close()
