"""The checks before every route: key, origin, size, time, and a client that goes away.

The guard reads the whole body first, within its limits. Then it runs the route and watches the connection at the same time. A route
whose client is gone is cancelled, and its waiting images leave the queue.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stylert.runtime.serving.metrics import Metrics
from stylert.runtime.serving.refusals import CLIENT_GONE, Overloaded, Refusal, error_body, status_of
from stylert.runtime.serving.request_headers import RequestHeaders, read_headers, request_id
from stylert.runtime.serving.settings import ServerSettings

LOG = logging.getLogger("stylert.serving")

#: Routes that need no key: probes, and the page, which asks for the key itself.
OPEN_PREFIXES = ("/v2/health/", "/page/")
OPEN_PATHS = ("/", "/docs", "/openapi.json", "/favicon.ico")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Seconds after which the guard begins to watch whether the client is still there.
WATCH_AFTER = 0.01
#: A body that is too large is read on and dropped, up to so many times the bytes of the limit. It may pause for so many seconds.
#: A client that reads no answer before it has sent all would otherwise see a broken connection in place of it.
DROPPED_BODIES, DROPPED_SECONDS = 4, 0.5
#: First parts of a path that become labels of metrics. Any other path counts as `other`.
ROUTES = (
    "/v1/images",
    "/v1/drag",
    "/v1/models",
    "/v2/models",
    "/v2/health",
    "/v2/repository",
    "/v2",
    "/metrics",
    "/page",
    "/docs",
    "/openapi.json",
)


@dataclass(eq=False)
class RequestGuard:
    """An ASGI application around another.

    Attributes:
        app: The routes.
        settings: Limits, and the key.
        metrics: Counts requests.
        draining: Whether the server stops. Answers then close their connection.
    """

    app: ASGIApp
    settings: ServerSettings
    metrics: Metrics
    draining: bool = False
    _held: int = field(default=0, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send, self)
        answer.request_id = request_id(scope["headers"])
        self.metrics.running.inc()
        body: bytes = b""
        try:
            headers = read_headers(scope["headers"])
            self._admit(scope, headers)
            body = await self._read_body(headers, receive)
            await self._run(scope, body, receive, answer)
        except _ClientGone:
            answer.status = CLIENT_GONE
        except Exception as e:
            status, message, extra = status_of(e)
            if status == 500:
                LOG.exception("request failed", extra={"facts": {"id": answer.request_id}})
            if not answer.started:
                await answer.refuse(status, message, extra)
            elif not answer.complete:  # nothing but the end of the connection can tell the client
                answer.status = status
                raise _Broken from e
        finally:
            self._held -= len(body)
            self.metrics.running.dec()
            self._record(scope, answer)

    def _admit(self, scope: Scope, headers: RequestHeaders) -> None:
        """Refuse a request of another web page, or without the key."""
        if self.settings.host in LOOPBACK and headers.host_name not in LOOPBACK:
            # A page of the web can give its own name the address of this machine. Its requests then have that name.
            raise Refusal(421, f"this server answers to {', '.join(LOOPBACK)}")
        if headers.origin not in (None, headers.host) and scope["method"] not in ("GET", "HEAD"):
            raise Refusal(403, "requests from other web pages are refused")
        if self.settings.api_key is None or scope["path"] in OPEN_PATHS or scope["path"].startswith(OPEN_PREFIXES):
            return
        if not hmac.compare_digest(headers.key.encode("latin-1"), self.settings.api_key.encode()):
            raise Refusal(401, "this server needs an API key: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})

    async def _read_body(self, headers: RequestHeaders, receive: Receive) -> bytes:
        """The body. Its bytes count in `_held` until the request ends."""
        length, most = headers.content_length, self.settings.max_body
        if length == 0:
            return b""
        too_large = Refusal(413, f"a body has at most {most} bytes", {"Connection": "close"})
        if length is not None and length > most:
            if length <= DROPPED_BODIES * most and not headers.asks_first:
                await self._drop_body(receive)
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGone
                    part = message.get("body", b"")
                    self._held += len(part)
                    body += part
                    more = message.get("more_body", False)
                    if len(body) > most:
                        if more:
                            await self._drop_body(receive)
                        raise too_large
                    if self._held > self.settings.max_held:
                        raise Overloaded("the bodies of other requests fill the memory")
            return bytes(body)
        except TimeoutError:
            self._held -= len(body)
            raise Refusal(408, "the body took too long", {"Connection": "close"}) from None
        except BaseException:
            self._held -= len(body)
            raise

    async def _drop_body(self, receive: Receive) -> None:
        """Read the rest of a body and forget it, within bounds of size and time."""
        dropped, more = 0, True
        while more and dropped <= DROPPED_BODIES * self.settings.max_body:
            try:
                message = await asyncio.wait_for(receive(), DROPPED_SECONDS)
            except TimeoutError:
                return
            if message["type"] == "http.disconnect":
                raise _ClientGone
            dropped += len(message.get("body", b""))
            more = message.get("more_body", False)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, answer: _Answer) -> None:
        """Run the route until it ends, its time is over or the client is gone."""
        delivered = False
        never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

        async def replay() -> Message:
            nonlocal delivered
            if delivered:
                return await never
            delivered = True
            return {"type": "http.request", "body": body, "more_body": False}

        route = asyncio.current_task()
        assert route is not None
        is_gone = False

        async def watch() -> None:
            nonlocal is_gone
            await _disconnected(receive)
            if not answer.complete:
                is_gone = True
                route.cancel()

        watchers: list[asyncio.Future[None]] = []
        # A request that is answered before needs no task of its own for this.
        timer = asyncio.get_running_loop().call_later(WATCH_AFTER, lambda: watchers.append(asyncio.ensure_future(watch())))
        try:
            async with asyncio.timeout(self.settings.request_seconds) as limit:
                await self.app(scope, replay, answer.send)
        except TimeoutError:
            if not limit.expired():
                raise
            raise Refusal(
                504, f"there was no answer within {self.settings.request_seconds:g} s", {"Retry-After": "1"}
            ) from None
        except asyncio.CancelledError:
            if not is_gone:
                raise
            route.uncancel()
            raise _ClientGone from None
        finally:
            timer.cancel()
            for watcher in watchers:
                watcher.cancel()

    def _record(self, scope: Scope, answer: _Answer) -> None:
        seconds = time.perf_counter() - answer.begin
        route = next((r for r in ROUTES if scope["path"] == r or scope["path"].startswith(f"{r}/")), "other")
        self.metrics.requests.labels(route, str(answer.status)).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        if not LOG.isEnabledFor(logging.INFO):
            return
        client = scope.get("client")
        facts: dict[str, Any] = {
            "id": answer.request_id,
            "client": client[0] if client else None,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": answer.status,
            "bytes": answer.bytes,
            "ms": round(1000 * seconds, 2),
        }
        LOG.info("request", extra={"facts": facts})


class _Answer:
    """The answer of one request on its way to the client."""

    def __init__(self, send: Send, guard: RequestGuard) -> None:
        self._send, self._guard = send, guard
        self.begin = time.perf_counter()
        self.request_id = ""
        self.started, self.complete, self.status, self.bytes = False, False, 0, 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode()), *SAFE_HEADERS]
            if self._guard.draining:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        self.bytes += len(message.get("body", b""))
        await self._send(message)
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def refuse(self, status: int, message: str, headers: dict[str, str]) -> None:
        body = error_body(message)
        fields: Iterable[tuple[str, str]] = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **headers,
        }.items()
        await self.send(
            {"type": "http.response.start", "status": status, "headers": [(k.lower().encode(), v.encode()) for k, v in fields]}
        )
        await self.send({"type": "http.response.body", "body": body})


#: Browsers then neither guess another type nor show the page in a frame of another site.
SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"x-frame-options", b"SAMEORIGIN"))


class _ClientGone(Exception):
    """The client closed its connection."""


class _Broken(Exception):
    """An answer failed after its start."""


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
