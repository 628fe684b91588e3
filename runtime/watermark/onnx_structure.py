"""How many bytes of an ONNX file are structure, and not weights, before it is parsed.

The parser of protobuf makes an object of about 100 bytes for each message, and an empty message has two bytes in the file. So a
file of 64 MiB can take 5 GiB. This module walks over the parts of a file without making objects.
"""

from __future__ import annotations

from collections.abc import Iterator

#: Numbers of fields in `onnx.proto`: the graph of a model, the weights of a graph, and the content of a weight.
GRAPH, INITIALIZER, RAW_DATA = 7, 5, 9
#: Wire types of protobuf, by what follows the key of a field.
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
#: Fields of one message of a detector. Real ones have about 20.
MAX_FIELDS = 1000


def structure_bytes(content: bytes) -> int:
    """The bytes outside of the contents of weights.

    Raises:
        ValueError: The file is no ONNX file, or one of its messages has more than `MAX_FIELDS` fields.
    """
    tensors = [
        tensor
        for number, graph in _fields(memoryview(content))
        if number == GRAPH
        for number_in_graph, tensor in _fields(graph)
        if number_in_graph == INITIALIZER
    ]
    return len(content) - sum(len(data) for tensor in tensors for number, data in _fields(tensor) if number == RAW_DATA)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The number and content of each field that has a length. Other fields are passed over."""
    position = 0
    for _ in range(MAX_FIELDS):
        if position == len(message):
            return
        key, position = _varint(message, position)
        kind, length = key & 7, 0
        if kind == VARINT:
            _, position = _varint(message, position)
        elif kind == LENGTH:
            length, position = _varint(message, position)
        elif kind in (FIXED32, FIXED64):
            position += 4 if kind == FIXED32 else 8
        else:
            raise ValueError("it has a field of no known kind")
        if position + length > len(message):
            raise ValueError("it is cut short")
        if kind == LENGTH:
            yield key >> 3, message[position : position + length]
            position += length
    raise ValueError("it has too many parts")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of protobuf, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position == len(message):
            raise ValueError("it is cut short")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it has a number of more than 64 bits")
