"""The allow-list: every name that an honest checkpoint mentions, and the record that stands in for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError
from stylert.models.importers.pickle_reader import Constructor, Global
from stylert.models.importers.records import (
    STORAGE_BYTES,
    NumpyArray,
    NumpyType,
    Storage,
    StoredModule,
    StoredObject,
    StoredTensor,
    check_lengths,
)


def allow_list(load_storage: Callable[[memoryview], Storage], budget: Budget) -> dict[tuple[str, str], Constructor | None]:
    """The allow-list of every format.

    Args:
        load_storage: Reads the torch file that an official pickle nests in each of its parameters.
        budget: Memory that remains for bytes that a pickle holds as text.

    Returns:
        `(module, name)` to a constructor, or to None where the name may be mentioned but not called.
    """

    def nested_storage(args: tuple[Any, ...]) -> Storage:
        match args:
            case (memoryview() as data,):
                return load_storage(data)
        raise FormatError("its pickle holds a tensor without bytes")

    def latin1_bytes(args: tuple[Any, ...]) -> memoryview:
        """Bytes as protocol 2 writes them: a string, and the name of its encoding."""
        match args:
            case (str(text), "latin1"):
                budget.reserve_text(len(text))  # a pickle may call this many times with one string
                try:
                    return memoryview(text.encode("latin-1"))
                except UnicodeEncodeError:
                    pass
        raise FormatError("its pickle holds bytes in an unknown form")

    names: dict[tuple[str, str], Constructor | None] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): _module,
        ("torch.storage", "_load_from_bytes"): nested_storage,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch", "Size"): _items,
        ("collections", "OrderedDict"): _dictionary,
        ("dnnlib.tflib.network", "Network"): lambda args: StoredObject("Network"),
        ("argparse", "Namespace"): lambda args: StoredObject("Namespace"),
        ("_codecs", "encode"): latin1_bytes,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _numpy_type,
    }
    names |= storage_names()
    names |= {(module, "EasyDict"): _dictionary for module in ("dnnlib", "dnnlib.util")}
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names |= {(module, "_reconstruct"): _numpy_array, (module, "scalar"): _numpy_scalar}
    for module in ("builtins", "__builtin__"):
        names |= {(module, name): _items for name in ("set", "frozenset", "list")}
    return names


def storage_names() -> dict[tuple[str, str], Constructor | None]:
    """The classes of torch's storages, which persistent identifiers mention."""
    return {("torch", name): None for name in STORAGE_BYTES}


def _items(args: tuple[Any, ...]) -> object:
    # The items themselves, because a copy would cost memory for one opcode of the file.
    if not args:
        return []
    if len(args) != 1 or type(args[0]) not in (list, tuple):
        raise FormatError("its pickle makes a container from something other than items")
    return args[0]


def _dictionary(args: tuple[Any, ...]) -> dict[Any, Any]:
    if args:
        raise FormatError("its pickle makes a dictionary in an unknown form")
    return {}


def _module(args: tuple[Any, ...]) -> StoredModule:
    match args:
        case ({"type": "class", "class_name": str(name), "state": dict(state)},):
            return StoredModule(name, state)
    raise FormatError("its pickle holds a persistent object in an unknown form")


def _tensor(args: tuple[Any, ...]) -> StoredTensor:
    match args:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_) if offset >= 0:
            check_lengths(shape)
            check_lengths(strides)
            return StoredTensor(storage, offset, shape, strides)
    raise FormatError("its pickle holds a tensor in an unknown form")


def _parameter(args: tuple[Any, ...]) -> StoredTensor:
    if not args or not isinstance(args[0], StoredTensor):
        raise FormatError("its pickle holds a parameter without a tensor")
    return args[0]


def _numpy_type(args: tuple[Any, ...]) -> NumpyType:
    if not args or not isinstance(args[0], str) or len(args[0]) > 8:
        raise FormatError("its pickle holds an array of a type that is not a plain number")
    return NumpyType(args[0])


def _numpy_array(args: tuple[Any, ...]) -> NumpyArray:
    if not args or args[0] != Global("numpy", "ndarray"):
        raise FormatError("its pickle holds an array of an unknown class")
    return NumpyArray()


def _numpy_scalar(args: tuple[Any, ...]) -> int | float | bool:
    match args:
        case (NumpyType() as dtype, memoryview() as data):
            if len(data) == STORAGE_BYTES[dtype.storage_kind]:
                return np.frombuffer(data, dtype.byte_order + dtype.code)[0].item()
    raise FormatError("its pickle holds a number in an unknown form")
