"""The headers of a request, read in one place. A header that cannot be read is the client's mistake, status 400."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from stylert.core.errors import InputError, shown

#: Headers that a request has at most once. Programs between client and server could read different ones of two.
SINGLE = (b"authorization", b"content-encoding", b"content-length", b"host", b"origin", b"x-api-key")
INFERENCE_LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class RequestHeaders:
    """The headers that decide about a request as a whole.

    Attributes:
        host: The header `Host` in lower case, with its port; empty without one.
        host_name: The name in it, without the port; empty if it is none.
        origin: Host and port of the web page that sends the request, in lower case; None outside of pages.
        key: The API key; empty without one.
        content_length: Bytes of the body that it announces; None for a body in chunks, 0 for no body.
        asks_first: Whether the client waits for consent before it sends the body (`Expect: 100-continue`).
    """

    host: str
    host_name: str
    origin: str | None
    key: str
    content_length: int | None
    asks_first: bool


def read_headers(fields: Iterable[tuple[bytes, bytes]]) -> RequestHeaders:
    """Read the headers of a request.

    Args:
        fields: Names in lower case, and values.

    Raises:
        InputError: One of them cannot be read, or is there twice.
    """
    headers: dict[bytes, str] = {}
    for name, value in fields:
        if name in headers and name in SINGLE:
            raise InputError(f"the header {name.decode('latin-1')} is there twice")
        headers[name] = value.decode("latin-1")
    host = headers.get(b"host", "").lower()
    origin = headers.get(b"origin")
    length = headers.get(b"content-length")
    return RequestHeaders(
        host,
        _authority(f"//{host}", "Host")[1],
        None if origin is None else _authority(origin, "Origin")[0],
        headers.get(b"x-api-key") or headers.get(b"authorization", "").removeprefix("Bearer "),
        _whole_number(length, "Content-Length") if length is not None else None if b"transfer-encoding" in headers else 0,
        b"expect" in headers,
    )


def request_id(fields: Iterable[tuple[bytes, bytes]]) -> str:
    """The header `X-Request-Id`, or a new id if there is none of up to 64 letters, digits and `_.:-`. It raises nothing."""
    given = next((value for name, value in fields if name == b"x-request-id"), b"")
    return given.decode() if re.fullmatch(rb"[\w.:-]{1,64}", given) else secrets.token_hex(8)


def inference_length(text: str | None, body_length: int) -> int:
    """Bytes of the JSON document at the beginning of a body, by the header of the binary tensor extension.

    Raises:
        InputError: It is no number of bytes of this body.
    """
    if text is None:
        return body_length
    length = _whole_number(text, INFERENCE_LENGTH)
    if length > body_length:
        raise InputError(f"{INFERENCE_LENGTH} is a number of bytes up to {body_length}, not {shown(text)}")
    return length


def _whole_number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InputError(f"{name} is a number of bytes, not {shown(text)}")
    return int(text)


def _authority(url: str, name: str) -> tuple[str, str]:
    """Host and port of a URL, and the host's name alone, in lower case."""
    try:
        parts = urlsplit(url)
        return parts.netloc.lower(), parts.hostname or ""
    except ValueError:
        raise InputError(f"{name} is not the address of a server: {shown(url.removeprefix('//'))}") from None
