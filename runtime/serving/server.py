"""Runs a server until a signal stops it.

| signal | and then |
|---|---|
| SIGTERM, SIGINT | readiness fails; after `drain_delay` no connection is accepted; running requests end; the process ends |
| a second one | the process ends at once |
| SIGHUP | every bundle is read again with its directions, and the key that signs pictures |
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import uvicorn

from stylert.core.errors import BackendError, InputError, StylertError, shown
from stylert.core.provenance.signing import forget_signer
from stylert.runtime.bundle import Bundle
from stylert.runtime.serving.application import application
from stylert.runtime.serving.dragging import Dragger, DragService, check_dragger
from stylert.runtime.serving.host_work import HostWork
from stylert.runtime.serving.http_protocol import limited_protocol
from stylert.runtime.serving.metrics import Metrics
from stylert.runtime.serving.model_store import BundleSource, ModelStore
from stylert.runtime.serving.settings import ServerSettings

LOG = logging.getLogger("stylert.serving")
BACKLOG = 1024
WORK_THREADS = 2


class ImageServer:
    """A server with its models, ready to run once.

    Args:
        sources: The bundles.
        settings: Address and limits.
        directions: Files of directions, each of the network of a bundle.
        dragger: Drags images of the network of a bundle; None for a server without drags.

    Raises:
        BackendError: The address cannot be used.
        StylertError: A bundle or a file of directions cannot be loaded.
    """

    def __init__(
        self,
        sources: Sequence[BundleSource],
        settings: ServerSettings,
        directions: Sequence[Path] = (),
        dragger: Dragger | None = None,
    ) -> None:
        self.settings = settings
        self._socket = _bound(settings.host, settings.port, "--port")  # first, because it fails faster than loading
        try:
            if settings.grpc_port:
                if settings.grpc_port == self._socket.getsockname()[1]:
                    raise InputError(f"HTTP and gRPC need ports of their own, and both have {settings.grpc_port}")
                _bound(settings.host, settings.grpc_port, "--grpc-port").close()
            if dragger is not None:
                check_dragger(dragger, [Bundle.load(source.path, source.require_signature) for source in sources])
            metrics = Metrics()
            self.store = ModelStore(sources, settings, metrics, directions)
            self.store.load()
        except BaseException:
            self._socket.close()
            raise
        self._work = HostWork(WORK_THREADS)
        self._drag = None if dragger is None else DragService(dragger, settings)
        self._guard = guard = application(self.store, settings, metrics, self._work, self._drag)
        self._grpc = None
        if settings.grpc_port is not None:
            from stylert.runtime.serving.kserve.grpc_server import GrpcServer  # its library is slow to import

            self._grpc = GrpcServer(self.store, settings, metrics, self._work, lambda: not guard.draining)
        config = uvicorn.Config(
            self._guard,
            http=limited_protocol(settings),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=int(settings.idle_seconds),
            timeout_graceful_shutdown=int(settings.drain_seconds),
        )
        self._server = _SignalledServer(config, self)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def grpc_address(self) -> str | None:
        """Host and port of gRPC; None without it."""
        return None if self._grpc is None else f"{self.settings.host}:{self._grpc.port}"

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until a signal, or until `stop`. All that was taken is answered before this returns.

        Args:
            ready: Called once the server accepts connections.
        """
        self._server.ready = ready
        with asyncio.Runner(loop_factory=self._server.config.get_loop_factory()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        try:
            if self._grpc is not None:
                await self._grpc.start()
            await self._server.serve(sockets=[self._socket])
            if self._grpc is not None:
                await self._grpc.stop()
        finally:
            for task in self._tasks:
                task.cancel()
            if self._drag is not None:
                self._drag.close()
            await self.store.close()
            self._work.close()

    def stop(self) -> None:
        """Begin to drain. For the thread of the event loop."""
        if self._guard.draining:
            self._server.should_exit = self._server.force_exit = True
            return
        self._guard.draining = True
        LOG.info("draining")
        asyncio.get_running_loop().call_later(self.settings.drain_delay, self._server.end)

    def reload(self) -> None:
        """Read every bundle again, in the background. For the thread of the event loop."""
        task = asyncio.get_running_loop().create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        forget_signer()  # a renewed certificate is taken, too
        for name in self.store.bundle_names:
            with contextlib.suppress(StylertError):  # it is in the log, and the old bundle stays
                await self.store.reload(name)


class _SignalledServer(uvicorn.Server):
    """uvicorn's server with the signals of the module's table."""

    def __init__(self, config: uvicorn.Config, owner: ImageServer) -> None:
        super().__init__(config)
        self._owner = owner
        self.ready: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop, owner = asyncio.get_running_loop(), self._owner
        handlers = {signal.SIGTERM: owner.stop, signal.SIGINT: owner.stop, signal.SIGHUP: owner.reload}
        before = {number: signal.getsignal(number) for number in handlers}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        # The command holds a SIGHUP back while it loads the bundles and after the server has ended.
        held = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            for number, previous in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, previous)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listener in sockets or []:
            self._accept_waiting(listener)
        await super().shutdown(sockets)

    def _accept_waiting(self, listener: socket.socket) -> None:
        """Take the connections that the system has accepted already. It would reset them when the listener is closed."""
        loop, config = asyncio.get_running_loop(), self.config

        def protocol() -> asyncio.Protocol:
            return config.http_protocol_class(config=config, server_state=self.server_state, app_state={})  # type: ignore[call-arg]

        with contextlib.suppress(OSError):  # BlockingIOError is the end of the queue
            while True:
                connection, _ = listener.accept()
                connection.setblocking(False)
                self.server_state.tasks.add(task := loop.create_task(_connect(loop, protocol, connection)))
                task.add_done_callback(self.server_state.tasks.discard)

    def end(self) -> None:
        self.should_exit = True


async def _connect(
    loop: asyncio.AbstractEventLoop, protocol: Callable[[], asyncio.Protocol], connection: socket.socket
) -> None:
    await loop.connect_accepted_socket(protocol, connection)


def _bound(host: str, port: int, option: str) -> socket.socket:
    """A socket that is bound to an address, and does not listen yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as e:
        raise BackendError(f"cannot listen on {host}: {e.strerror or e}") from None
    except UnicodeError:  # of Python, for a name that no domain can have
        raise InputError(f"cannot listen on {shown(host)}: it is no name of a host") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as e:
        bound.close()
        reason = e.strerror if isinstance(e, OSError) else e
        raise BackendError(f"cannot listen on {host} port {port}: {reason}; choose another with {option}") from None
    return bound
