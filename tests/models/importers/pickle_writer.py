"""A writer of pickles, opcode by opcode. A file may name modules that do not exist, or code that must never run."""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any

import numpy as np
import torch


class Call:
    """Written as the call `module.name(*args)`, and then its state. `new` uses the opcode NEWOBJ instead of REDUCE."""

    def __init__(self, module: str, name: str, args: Any = (), state: Any = None, new: bool = False) -> None:
        self.module, self.name, self.args, self.state, self.new = module, name, args, state, new


class Persistent:
    """Written as a persistent identifier."""

    def __init__(self, identifier: Any) -> None:
        self.identifier = identifier


class Global:
    """Written as the name `module.name`."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class PickleWriter:
    """Writes plain values, arrays, tensors, `Call`, `Persistent` and `Global`. Protocol 2 is torch's, 4 is Python's."""

    def __init__(self, protocol: int = 4) -> None:
        self.protocol, self.out = protocol, bytearray(pickle.PROTO + bytes([protocol]))
        self.memo: dict[str, int] = {}

    def dumps(self, value: Any) -> bytes:
        self.write(value)
        return bytes(self.out + pickle.STOP)

    def write(self, value: Any) -> None:
        out = self.out
        match value:
            case None:
                out += pickle.NONE
            case bool():
                out += pickle.NEWTRUE if value else pickle.NEWFALSE
            case int() if 0 <= value < 256:
                out += pickle.BININT1 + bytes([value])
            case int() if -(2**31) <= value < 2**31:
                out += pickle.BININT + struct.pack("<i", value)
            case int():
                raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
                out += pickle.LONG1 + bytes([len(raw)]) + raw
            case float():
                out += pickle.BINFLOAT + struct.pack(">d", value)
            case str() if value in self.memo:
                out += pickle.LONG_BINGET + struct.pack("<I", self.memo[value])
            case str():
                raw = value.encode()
                out += pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw
                self.memo[value] = len(self.memo)
                out += pickle.LONG_BINPUT + struct.pack("<I", self.memo[value])
            case bytes():
                out += pickle.BINBYTES + struct.pack("<I", len(value)) + value
            case tuple():
                self._items(pickle.MARK, value, pickle.TUPLE)
            case list():
                self._items(pickle.EMPTY_LIST + pickle.MARK, value, pickle.APPENDS)
            case dict():
                self._items(pickle.EMPTY_DICT + pickle.MARK, [x for pair in value.items() for x in pair], pickle.SETITEMS)
            case Global():
                out += pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode()
            case Persistent():
                self.write(value.identifier)
                out += pickle.BINPERSID
            case Call():
                if self.protocol >= 4:
                    self.write(value.module)
                    self.write(value.name)
                    out += pickle.STACK_GLOBAL
                else:
                    self.write(Global(value.module, value.name))
                self.write(value.args)
                out += pickle.NEWOBJ if value.new else pickle.REDUCE
                if value.state is not None:
                    self.write(value.state)
                    out += pickle.BUILD
            case np.ndarray():
                self.write(array_record(value))
            case torch.Tensor():
                self.write(tensor_record(value))
            case _:
                raise TypeError(type(value))

    def _items(self, before: bytes, items: Any, after: bytes) -> None:
        self.out += before
        for item in items:
            self.write(item)
        self.out += after


def array_record(array: np.ndarray, shape: tuple[int, ...] | None = None) -> Call:
    """A NumPy array. `shape` may differ from the shape of the bytes."""
    dtype = Call("numpy", "dtype", (array.dtype.str[1:], False, True), state=(3, "<", None, None, None, -1, -1, 0))
    reconstruct = ("numpy.core.multiarray", "_reconstruct", (Global("numpy", "ndarray"), (0,), b"b"))
    fortran_order = array.ndim > 1 and not array.flags.c_contiguous and array.flags.f_contiguous
    state = (1, shape or array.shape, dtype, bool(fortran_order), array.tobytes("F" if fortran_order else "C"))
    return Call(*reconstruct, state=state)


def number_record(value: float) -> Call:
    dtype = Call("numpy", "dtype", ("f8", False, True), state=(3, "<", None, None, None, -1, -1, 0))
    return Call("numpy.core.multiarray", "scalar", (dtype, struct.pack("<d", value)))


def storage_bytes(tensor: torch.Tensor) -> bytes:
    """A storage as torch pickles it into a parameter: a legacy torch file."""
    buffer = io.BytesIO()
    torch.save(
        torch.storage.TypedStorage(
            wrap_storage=tensor.detach().contiguous().untyped_storage(), dtype=tensor.dtype, _internal=True
        ),
        buffer,
        _use_new_zipfile_serialization=False,
    )
    return buffer.getvalue()


def tensor_record(tensor: torch.Tensor, **changes: Any) -> Call:
    """A tensor in an official pickle. `changes` replace its true offset, shape or stride."""
    whole = tensor.detach().contiguous()
    storage = Call("torch.storage", "_load_from_bytes", (storage_bytes(whole),))
    layout = {"offset": 0, "shape": tuple(whole.shape), "stride": whole.stride(), **changes}
    hooks = Call("collections", "OrderedDict")
    return Call(
        "torch._utils", "_rebuild_tensor_v2", (storage, layout["offset"], layout["shape"], layout["stride"], False, hooks)
    )
