"""Errors of a request with their HTTP status, and the answer that carries them.

Every refusal has the body `{"error": "one line"}`, as in the KServe protocol.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from stylert.core.errors import BackendError, InputError, SigningError, StylertError
from stylert.core.files.outputs import document_text

#: The status in the log for a client that closed its connection before the answer. It is never sent.
CLIENT_GONE = 499


class Refusal(StylertError):
    """A request that is refused with a status of its own.

    Attributes:
        status: HTTP status.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


class Overloaded(Refusal):
    """There is no room for the request now. The answer says after how many seconds to try again."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(503, message, {"Retry-After": str(retry_after)})


def status_of(error: Exception) -> tuple[int, str, dict[str, str]]:
    """Status, message and headers that answer an exception. A message of an unknown exception does not leave the server."""
    if isinstance(error, Refusal):
        return error.status, str(error), error.headers
    if isinstance(error, InputError):
        return 400, str(error), {}
    if isinstance(error, BackendError | SigningError):
        return 503, str(error), {"Retry-After": "1"}
    return 500, "internal error; the log of the server has more", {}


def error_body(message: str) -> bytes:
    """The body of a refusal."""
    return msgspec.json.encode({"error": document_text(" ".join(message.split()))})
