"""The answer to an inference over HTTP: a JSON document, then the bytes of binary tensors.

The answer is a list of parts, so that no step copies the whole. The text of pixels takes four bytes for each. It is made while it
is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from fastapi import Response
from starlette.types import Receive, Scope, Send

from stylert.runtime.serving.host_work import SMALL
from stylert.runtime.serving.kserve.tensors import DATATYPES, TensorFacts
from stylert.runtime.serving.request_headers import INFERENCE_LENGTH

#: The text of each pixel value with a comma, in four characters, as one number: a table look-up makes text of pixels.
PIXEL_TEXTS = np.array([f"{value:3d}," for value in range(256)], "S4").view(np.uint32)
#: Pixel values whose text is made at a time.
PIECE = 2**16


@dataclass(frozen=True, eq=False)
class PixelText:
    """Pixels as values of a JSON list.

    Attributes:
        pixels: uint8 array.
        ends_list: Whether the last of them is the last of the list. Otherwise a comma follows it.
    """

    pixels: np.ndarray
    ends_list: bool

    def __len__(self) -> int:
        return 4 * self.pixels.size

    def pieces(self) -> Iterator[bytes]:
        """The text, in pieces that take the event loop little time."""
        flat = self.pixels.reshape(-1)
        for start in range(0, flat.size, PIECE):
            text = PIXEL_TEXTS[flat[start : start + PIECE]].tobytes()
            yield text[:-1] + b" " if self.ends_list and start + PIECE >= flat.size else text


Part = bytes | memoryview | PixelText


def infer_answer(
    own: dict[str, Any], outputs: Sequence[TensorFacts], results: Mapping[str, Sequence[np.ndarray]], binary: frozenset[str]
) -> Response:
    """The answer to an inference.

    Args:
        own: The fields of the document about the model and the request.
        outputs: The outputs, in their order.
        results: One array for each image, by the name of the output.
        binary: Names of the outputs whose bytes follow the document.
    """
    document: list[Part] = [msgspec.json.encode(own)[:-1], b', "outputs": [']
    tail: list[Part] = []
    for index, tensor in enumerate(outputs):
        rows = [np.ascontiguousarray(row, DATATYPES[tensor.datatype]) for row in results[tensor.name]]
        facts: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": (len(rows), *rows[0].shape)}
        is_binary = tensor.name in binary
        if is_binary:
            facts["parameters"] = {"binary_data_size": sum(row.nbytes for row in rows)}
            tail += [row.data.cast("B") for row in rows]
        document += [b", " if index else b"", msgspec.json.encode(facts)[:-1], *([] if is_binary else _values(rows)), b"}"]
    document.append(b"]}")
    headers = {INFERENCE_LENGTH: str(sum(map(len, document)))} if binary else {}
    media_type = "application/octet-stream" if binary else "application/json"
    parts = [*document, *tail]
    if sum(map(len, parts)) > SMALL:
        return _PartsResponse(parts, headers, media_type)
    return Response(b"".join(piece for part in parts for piece in _pieces(part)), headers=headers, media_type=media_type)


def _values(rows: Sequence[np.ndarray]) -> list[Part]:
    """The field `data` of a tensor."""
    texts: list[Part]
    if rows[0].dtype == np.uint8:
        texts = [PixelText(row, row is rows[-1]) for row in rows]
    else:
        texts = [b",".join(msgspec.json.encode(row.ravel().tolist())[1:-1] for row in rows)]
    return [b', "data": [', *texts, b"]"]


class _PartsResponse(Response):
    """An answer that is sent part by part, with its length known."""

    def __init__(self, parts: Sequence[Part], headers: Mapping[str, str], media_type: str) -> None:
        super().__init__(None, headers={**headers, "Content-Length": str(sum(map(len, parts)))}, media_type=media_type)
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for part in self._parts:
            for piece in _pieces(part):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.sleep(0)  # `send` waits only if the client reads slowly
        await send({"type": "http.response.body", "body": b""})


def _pieces(part: Part) -> Iterator[bytes | memoryview]:
    if isinstance(part, PixelText):
        yield from part.pieces()
    else:
        yield part
