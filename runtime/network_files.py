"""Checks of an ONNX file before a library opens it.

A tensor of an ONNX file may lie in another file, which the tensor names. A library would read that file too, although
no manifest has its sha256.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from stylert.core.errors import BackendError, BundleError, shown, shown_line
from stylert.core.files.inputs import open_file
from stylert.runtime.network_kinds import NETWORK_KINDS, NetworkKind

#: Largest ONNX file: protobuf has no larger messages
MAX_BYTES = 2**31 - 1

#: A file is searched in parts of this size.
PART_BYTES = 2**20

#: The domain of a node of ours, with the tag and the length that protobuf writes before it.
OUR_NODE = b"\x3a\x07stylert"

#: The key under which a tensor names its file. The bytes of a string lie in the file as they are.
LOCATION = b"location"


def check_network_file(file: Path, companions: Collection[str] = ()) -> None:
    """Check that an ONNX file reads no other file than `companions`, which lie beside it.

    A file without the word `location` needs no parsing, so a large network costs one pass over its bytes.

    Raises:
        BundleError: It reads another file, cannot be read, or is larger than an ONNX file can be.
    """
    try:
        with open_file(file, BundleError, MAX_BYTES, "network") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                raise BundleError(f"{file} is not a network that can be read: it is empty")
            if not _holds(stream, LOCATION):
                return
    except OSError as e:
        raise BundleError(f"{file} is not a network that can be read: {e}") from None
    for location in _locations(parsed(file)):
        if location not in companions:
            raise BundleError(
                f"{file} keeps weights in a file of its own, {shown(location)}, which {file.parent} does not list"
            )


def _holds(stream: BinaryIO, word: bytes) -> bool:
    """Whether a word stands anywhere in a file. It is read in parts: a mapped file that is shortened ends the process."""
    end = b""
    while part := stream.read(PART_BYTES):
        end += part
        if word in end:
            return True
        end = end[1 - len(word) :]
    return False


def check_kind(file: Path, kind: NetworkKind) -> None:
    """Check by the names of its tensors that an ONNX file is a synthesis network of this kind.

    The inputs and outputs of all kinds are the same, so they do not tell the kinds apart.

    Raises:
        BundleError: It is a network of another kind, or cannot be read.
    """
    for other in NETWORK_KINDS.values():
        if other.tensor is None:
            continue
        with open_file(file, BundleError, MAX_BYTES, "network") as stream:
            is_other = _holds(stream, other.tensor.encode())
        if is_other != (other is kind):
            has = "has" if is_other else "lacks"
            raise BundleError(f"{file} is not the {kind.title} network that its bundle describes: it {has} {other.tensor}")


def check_network(file: Path) -> None:
    """Check that an ONNX file reads no other file, and that its nodes of our domain are such as the operators define.

    A library that runs the operators' functions does not notice a wrong attribute. A file without such nodes needs no
    parsing.

    Raises:
        BundleError: As `check_network_file`, or a node is wrong.
    """
    check_network_file(file)
    if may_hold_our_nodes(file):  # otherwise without onnx, whose import takes as long as opening a small network
        _model_with_checked_nodes(file)


def may_hold_our_nodes(file: Path) -> bool:
    """Whether an ONNX file may have nodes of our domain, without parsing it.

    Raises:
        BundleError: It cannot be read, or is larger than an ONNX file can be.
    """
    with open_file(file, BundleError, MAX_BYTES, "network") as stream:
        return _holds(stream, OUR_NODE)


def checked_model(file: Path) -> Any:
    """The `ModelProto` of an ONNX file that was checked, with its nodes.

    Raises:
        BundleError: As `check_network_file`, or a node is wrong.
        BackendError: There is too little memory.
    """
    check_network_file(file)
    return _model_with_checked_nodes(file)


def _model_with_checked_nodes(file: Path) -> Any:
    from stylert.plugins.onnx_functions import check_nodes

    model = parsed(file)
    try:
        check_nodes(model)
    except ValueError as e:
        raise BundleError(f"{file}: {e}") from None
    return model


def parsed(file: Path) -> Any:
    """The `ModelProto` of an ONNX file, without the tensors that lie in other files.

    Raises:
        BundleError: It cannot be read.
        BackendError: There is too little memory.
    """
    import onnx

    try:
        return onnx.load(file, load_external_data=False)
    except MemoryError:
        raise BackendError(f"not enough memory to read {file}") from None
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
