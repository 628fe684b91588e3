"""What foreign names stand for: the allow-list, and the inert records that it makes.

A tensor here is a window on the bytes of the file, with a shape that has been checked against them. It becomes an array
only when a network of known configuration asks for it, so nothing is ever allocated because a file declares it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stylert.models.importers.pickle_reader import Maker, Name
from stylert.models.importers.refusal import Refused, shown

#: Bytes per element of what torch stores, by the name of the storage.
STORAGE_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
#: The floating types among them, as NumPy reads them; bfloat16 is the upper half of a float32.
FLOAT_STORAGES = {"DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2"}
MAX_DIMENSIONS = 8
EMPTY = memoryview(b"")
#: Parameters, buffers or submodules that one module may have.
MAX_PARTS = 1024


class Allowance:
    """Bytes that may still be allocated for arrays: a multiple of what the file holds."""

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, count: int) -> None:
        if count > self.left:
            raise Refused("it declares more tensors than its bytes can hold")
        self.left -= count


@dataclass
class Storage:
    """A flat run of `numel` elements in the file. `kind` is a key of `STORAGE_BYTES`.

    `data` are its bytes. In the older containers they follow the objects that refer to them, so they are set later.
    """

    kind: str
    numel: int
    data: memoryview = EMPTY


@dataclass(frozen=True)
class Tensor:
    """A strided view of a storage; shape and strides, in elements, lie inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.shape) > MAX_DIMENSIONS or len(self.shape) != len(self.strides):
            raise Refused("it holds a tensor whose shape and strides do not fit together")
        numel, last = math.prod(self.shape), self.offset
        last += sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if numel and (numel > self.storage.numel or last >= self.storage.numel):
            shape = shown("x".join(map(shown, self.shape)))
            raise Refused(f"it declares a tensor of {shape} over a storage of {self.storage.numel} elements")

    def array(self, allowance: Allowance) -> np.ndarray:
        """A float32 copy. Raises Refused for another type than a floating one."""
        if self.storage.kind not in FLOAT_STORAGES:
            raise Refused(f"holds {self.storage.kind.removesuffix('Storage').lower()} values where weights must be floats")
        allowance.spend(4 * math.prod(self.shape))
        flat = np.frombuffer(self.storage.data, FLOAT_STORAGES[self.storage.kind])
        window = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, [s * flat.itemsize for s in self.strides])
        if self.storage.kind == "BFloat16Storage":
            return (window.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            return window.astype(np.float32, order="C")


@dataclass
class Module:
    """A `torch.nn.Module` of the official code: its class by name, and its state. The source that comes with it is ignored."""

    class_name: str
    state: dict[Any, Any]

    def children(self) -> dict[str, Module]:
        return {k: v for k, v in self._part("_modules").items() if isinstance(v, Module)}

    def tensors(self) -> dict[str, Tensor]:
        """Its own parameters and buffers; a frozen layer keeps its weights among the buffers."""
        own = {**self._part("_parameters"), **self._part("_buffers")}
        return {k: v for k, v in own.items() if isinstance(v, Tensor)}

    def _part(self, name: str) -> dict[str, Any]:
        part = self.state.get(name)
        if type(part) is not dict or len(part) > MAX_PARTS or not all(isinstance(k, str) for k in part):
            raise Refused(f"its {shown(self.class_name)} has no readable {name}")
        return part


@dataclass
class Record:
    """Any object that is a bag of attributes: a TensorFlow network, the arguments of a training script."""

    kind: str
    state: dict[Any, Any] = field(default_factory=dict)

    def set_state(self, state: object) -> None:
        if type(state) is not dict:
            raise Refused(f"its {self.kind} has a state that is no dictionary")
        self.state = state


class NumpyType:
    """`numpy.dtype(code)`, of plain numbers only."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"

    def set_state(self, state: object) -> None:
        if type(state) is not tuple or len(state) < 2 or state[1] not in ("<", ">", "=", "|"):
            raise Refused("its pickle holds an array of a type that is not a plain number")
        self.order = "<" if state[1] in ("=", "|") else state[1]

    @property
    def storage_kind(self) -> str:
        kinds = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char"}
        kind = {**kinds, "u1": "Byte", "b1": "Bool"}.get(self.code)
        if kind is None or self.order != "<":
            raise Refused(f"its pickle holds an array of type {shown(self.order + self.code)}")
        return f"{kind}Storage"


class NumpyArray:
    """An array as `ndarray.__setstate__` gets it; `tensor` once it has its state."""

    tensor: Tensor | None = None

    def set_state(self, state: object) -> None:
        match state:
            case (int(), tuple(shape), NumpyType() as dtype, fortran, memoryview() as data):
                pass
            case _:
                raise Refused("its pickle holds an array in an unknown form")
        shape = _lengths(shape)
        kind = dtype.storage_kind
        numel = math.prod(shape)
        if len(data) != STORAGE_BYTES[kind] * numel:
            raise Refused(f"it declares an array of {shown('x'.join(map(shown, shape)))} over {len(data)} bytes")
        order = shape if fortran else shape[::-1]
        steps = [math.prod(order[:i]) for i in range(len(order))]
        self.tensor = Tensor(Storage(kind, numel, data), 0, shape, tuple(steps if fortran else steps[::-1]))


# --- the allow-list ------------------------------------------------------------------------------------------------


def allow_list(load_storage: Callable[[memoryview], Storage]) -> dict[tuple[str, str], Maker | None]:
    """Every name that an honest file mentions. `load_storage` reads the torch file nested in a parameter."""

    def nested_storage(args: tuple[Any, ...]) -> Storage:
        match args:
            case (memoryview() as data,):
                return load_storage(data)
        raise Refused("its pickle holds a tensor without bytes")

    makers: dict[tuple[str, str], Maker | None] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _module,
        ("torch.storage", "_load_from_bytes"): nested_storage,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch", "Size"): _items,
        ("collections", "OrderedDict"): _dictionary,
        ("dnnlib.tflib.network", "Network"): lambda args: Record("Network"),
        ("argparse", "Namespace"): lambda args: Record("Namespace"),
        ("_codecs", "encode"): _latin_bytes,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _numpy_type,
    }
    makers |= {("torch", name): None for name in STORAGE_BYTES}
    makers |= {(module, "EasyDict"): _dictionary for module in ("dnnlib", "dnnlib.util")}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        makers |= {(module, "_reconstruct"): _numpy_array, (module, "scalar"): _numpy_scalar}
    for module in ("builtins", "__builtin__"):
        makers |= {(module, name): _items for name in ("set", "frozenset", "list")}
    return makers


def _items(args: tuple[Any, ...]) -> object:
    # The items themselves, not a copy: what costs the file one opcode must not cost memory.
    if not args:
        return []
    if len(args) != 1 or type(args[0]) not in (list, tuple):
        raise Refused("its pickle makes a container from no items")
    return args[0]


def _dictionary(args: tuple[Any, ...]) -> dict[Any, Any]:
    if args:
        raise Refused("its pickle makes a dictionary in an unknown form")
    return {}


def _module(args: tuple[Any, ...]) -> Module:
    match args:
        case ({"type": "class", "class_name": str(name), "state": dict(state)},):
            return Module(name, state)
    raise Refused("its pickle holds a persistent object in an unknown form")


def _tensor(args: tuple[Any, ...]) -> Tensor:
    match args:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_) if offset >= 0:
            return Tensor(storage, offset, _lengths(shape), _lengths(strides))
    raise Refused("its pickle holds a tensor in an unknown form")


def _parameter(args: tuple[Any, ...]) -> Tensor:
    if not args or not isinstance(args[0], Tensor):
        raise Refused("its pickle holds a parameter without a tensor")
    return args[0]


def _lengths(values: tuple[Any, ...]) -> tuple[int, ...]:
    if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v < 2**48 for v in values):
        raise Refused("its pickle holds a shape of other things than lengths")
    return values


def _numpy_type(args: tuple[Any, ...]) -> NumpyType:
    if not args or not isinstance(args[0], str) or len(args[0]) > 8:
        raise Refused("its pickle holds an array of a type that is not a plain number")
    return NumpyType(args[0])


def _numpy_array(args: tuple[Any, ...]) -> NumpyArray:
    if not args or args[0] != Name("numpy", "ndarray"):
        raise Refused("its pickle holds an array of an unknown class")
    return NumpyArray()


def _numpy_scalar(args: tuple[Any, ...]) -> int | float | bool:
    match args:
        case (NumpyType() as dtype, memoryview() as data):
            if len(data) == STORAGE_BYTES[dtype.storage_kind]:
                return np.frombuffer(data, dtype.order + dtype.code)[0].item()
    raise Refused("its pickle holds a number in an unknown form")


def _latin_bytes(args: tuple[Any, ...]) -> memoryview:
    """Bytes as protocol 2 writes them: a string and the word latin1."""
    match args:
        case (str(text), "latin1"):
            try:
                return memoryview(text.encode("latin-1"))
            except UnicodeEncodeError:
                pass
    raise Refused("its pickle holds bytes in an unknown form")
