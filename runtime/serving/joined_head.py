"""One packet for a short answer."""

from __future__ import annotations

import asyncio
from typing import Any

#: The first bytes of an answer.
HEAD_START = b"HTTP/1.1 "


class JoinedHead:
    """A transport that writes the head of an answer together with the first part of its body.

    uvicorn writes them one after the other. Each write is a call of the system, and wakes the client.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._head and data.startswith(HEAD_START):
            self._head = data
            self._loop.call_soon(self._write_head)  # the body may take longer, or be empty
        else:
            data, self._head = self._head + data, b""
            self._transport.write(data)

    def close(self) -> None:
        self._write_head()
        self._transport.close()

    def _write_head(self) -> None:
        if self._head:
            self.write(b"")
