"""A writer of pickles that name functions of modules which are not installed here.

Python's own pickler imports every module that it mentions. This one writes the names alone.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np


@dataclass(frozen=True)
class Global:
    """The function or class `name` of `module`, as the reader finds it."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """The result of a call that the reader makes."""

    function: Global
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class PersistentId:
    """A value that the reader looks up outside the pickle, such as a storage of torch."""

    value: tuple[Any, ...]


#: An empty `collections.OrderedDict`, which torch's functions take for hooks.
ORDERED_DICT = Call(Global("collections", "OrderedDict"))


class PickleWriter:
    """Writes plain values, `Global`, `Call`, `PersistentId` and arrays.

    Args:
        file: Where the pickle goes.
        array_form: Turns an array into a value of the other kinds.
        protocol: Version of the format that the pickle declares: 2, which torch expects in its files, or 3, which has bytes.
    """

    def __init__(self, file: BinaryIO, array_form: Callable[[np.ndarray], Any], protocol: int = 3) -> None:
        self.file, self.array_form, self.protocol = file, array_form, protocol

    def dump(self, value: Any) -> None:
        """Write one whole pickle."""
        self.file.write(pickle.PROTO + bytes([self.protocol]))
        self._write(value)
        self.file.write(pickle.STOP)

    def _write(self, value: Any) -> None:
        put = self.file.write
        match value:
            case None:
                put(pickle.NONE)
            case bool():
                put(pickle.NEWTRUE if value else pickle.NEWFALSE)
            case int():
                raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
                put(pickle.LONG1 + bytes([len(raw)]) + raw)
            case float():
                put(pickle.BINFLOAT + struct.pack(">d", value))
            case str():
                raw = value.encode()
                put(pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw)
            case bytes():
                put(pickle.BINBYTES + struct.pack("<I", len(value)) + value)
            case tuple():
                self._items(pickle.MARK, value, pickle.TUPLE)
            case list():
                self._items(pickle.EMPTY_LIST + pickle.MARK, value, pickle.APPENDS)
            case dict():
                self._items(pickle.EMPTY_DICT + pickle.MARK, (x for pair in value.items() for x in pair), pickle.SETITEMS)
            case Global():
                put(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
            case Call():
                self._write(value.function)
                self._write(value.arguments)
                put(pickle.REDUCE)
            case PersistentId():
                self._write(value.value)
                put(pickle.BINPERSID)
            case np.ndarray():
                self._write(self.array_form(value))
            case _:
                raise TypeError(f"a pickle for other projects cannot hold {type(value).__name__}")

    def _items(self, before: bytes, items: Iterable[Any], after: bytes) -> None:
        self.file.write(before)
        for item in items:
            self._write(item)
        self.file.write(after)
