"""Checks of an ONNX file before a library opens it.

A tensor of an ONNX file may lie in another file, which the tensor names. A library would read that file too, although
no manifest has its sha256.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from stylert.core.errors import BundleError, shown, shown_line

#: Largest ONNX file: protobuf has no larger messages
MAX_BYTES = 2**31 - 1

#: The key under which a tensor names its file. The bytes of a string lie in the file as they are.
LOCATION = b"location"


def check_network_file(file: Path, companions: Collection[str] = ()) -> None:
    """Check that an ONNX file reads no other file than `companions`, which lie beside it.

    A file without the word `location` needs no parsing, so a large network costs one pass over its bytes.

    Raises:
        BundleError: It reads another file, cannot be read, or is larger than an ONNX file can be.
    """
    try:
        size = file.stat().st_size
        if size > MAX_BYTES:
            raise BundleError(f"{file} has more than 2 GiB, which no ONNX file can have")
        with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(LOCATION) < 0:
                return
    except (OSError, ValueError) as e:  # ValueError: the file is empty
        raise BundleError(f"{file} is not a network that can be read: {e}") from None
    for location in _locations(parsed(file)):
        if location not in companions:
            raise BundleError(
                f"{file} keeps weights in a file of its own, {shown(location)}, which {file.parent} does not list"
            )


def parsed(file: Path) -> Any:
    """The `ModelProto` of an ONNX file, without the tensors that lie in other files.

    Raises:
        BundleError: It cannot be read.
    """
    import onnx

    try:
        return onnx.load(file, load_external_data=False)
    except Exception as e:  # protobuf's exceptions share no public base class
        raise BundleError(f"{file} is not a network that can be read: {shown_line(str(e))}") from None


def _locations(message: Any) -> Iterator[str]:
    """The names of the files in which tensors lie, in a message of protobuf and all messages in it."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for part in (value,) if hasattr(value, "ListFields") else value:
            if hasattr(part, "external_data"):
                yield from (entry.value for entry in part.external_data if entry.key == "location")
            yield from _locations(part)
