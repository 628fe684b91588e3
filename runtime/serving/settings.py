"""The settings of a server: where it listens, how it batches, and its limits."""

from __future__ import annotations

from dataclasses import dataclass

from stylert.core.errors import InputError, shown
from stylert.runtime.serving.setting_ranges import check_settings

MIB = 2**20

#: Least and greatest value of the numbers that are not in `SHARED_RANGES`
OWN_RANGES: dict[str, tuple[float, float]] = {
    "port": (0, 65535),
    "grpc_port": (0, 65535),
    "max_queue": (1, 1_000_000),
    "max_images": (1, 4096),
    "max_pixels": (1, 2**40),
    "max_body": (1, 2**40),
    "max_held": (1, 2**40),
    "max_connections": (1, 100_000),
    "header_seconds": (0.01, 86_400),
    "body_seconds": (0.01, 86_400),
    "request_seconds": (0.1, 86_400),
    "idle_seconds": (0.01, 86_400),
    "drain_delay": (0, 86_400),
    "drain_seconds": (0, 86_400),
}


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Limits and times of a server.

    Attributes:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        grpc_port: TCP port of gRPC; 0 takes a free one, and None has no gRPC.
        api_key: The key that requests must carry; None needs no key.
        max_batch: Images in one call of a network, at most.
        max_delay_ms: How long an image may wait for others to fill its batch. With 0 a batch holds what has arrived while the
            network was busy, and an idle network starts at once.
        incremental: Whether a network keeps the features of its last calls, as `Generator.load`.
        max_queue: Images of one model that wait, at most. Further requests are refused with status 503.
        max_images: Images of one request.
        max_pixels: Pixels of the pictures of one request together.
        max_body: Bytes of the body of one request.
        max_held: Bytes of all bodies in memory.
        max_connections: Connections at a time.
        header_seconds: Time to send the head of a request.
        body_seconds: Time to send the body of a request.
        request_seconds: Time for the answer, from the end of the body to its last byte.
        idle_seconds: Time that a connection may stay open without a request.
        drain_delay: Seconds after SIGTERM in which new requests are still taken, so that load balancers can notice.
        drain_seconds: Seconds after that in which running requests may end.

    Raises:
        InputError: A value is of another type, or out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    api_key: str | None = None
    max_batch: int = 8
    max_delay_ms: float = 0.0
    incremental: bool = False
    max_queue: int = 256
    max_images: int = 64
    max_pixels: int = 2**25
    max_body: int = 8 * MIB
    max_held: int = 256 * MIB
    max_connections: int = 512
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    request_seconds: float = 60.0
    idle_seconds: float = 30.0
    drain_delay: float = 0.5
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        check_settings(self, OWN_RANGES)
        if self.max_images > self.max_queue:
            raise InputError(f"max_queue of {self.max_queue} has no room for a request of {self.max_images} images")
        if not isinstance(self.incremental, bool):
            raise InputError(f"incremental is True or False, not {shown(self.incremental)}")
        if not isinstance(self.host, str) or not self.host:
            raise InputError(f"the address to listen on is a text such as 127.0.0.1, not {shown(self.host)}")
        if self.api_key is not None and not _is_key(self.api_key):
            raise InputError("an API key has 8 to 200 printable ASCII characters")


def _is_key(key: object) -> bool:
    return isinstance(key, str) and 8 <= len(key) <= 200 and key.isascii() and key.isprintable()
