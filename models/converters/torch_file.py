"""Torch's legacy container, which every version of torch reads: five pickles, and then the bytes of the storages.

The first three pickles are a magic number, the version of the protocol, and the sizes of the machine's types. Then come the
content, and the keys of the storages in the order of their bytes.
"""

from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO

import numpy as np

from stylert.models.converters.pickle_writer import ORDERED_DICT, Call, Global, PersistentId, PickleWriter

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
SYSTEM = {"protocol_version": PROTOCOL_VERSION, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def write_torch_file(file: BinaryIO, content: Any) -> None:
    """Write what `torch.load` reads as `content`, whose float32 arrays become tensors. No two tensors share a storage."""
    storages: dict[str, np.ndarray] = {}

    def tensor(array: np.ndarray) -> Call:
        key = str(len(storages))
        storages[key] = array
        return tensor_call(_storage_id(key, array), array)

    _write(file, content, storages, tensor)


def storage_bytes(array: np.ndarray) -> bytes:
    """A torch file whose content is the storage of one float32 array, as torch nests it in the pickle of a tensor."""
    file = io.BytesIO()
    _write(file, _storage_id("0", array), {"0": array}, tensor_form=None)
    return file.getvalue()


def tensor_call(storage: Call | PersistentId, array: np.ndarray) -> Call:
    """A contiguous tensor of the shape of `array` over a storage."""
    strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (storage, 0, array.shape, strides, False, ORDERED_DICT))


def _storage_id(key: str, array: np.ndarray) -> PersistentId:
    return PersistentId(("storage", Global("torch", "FloatStorage"), key, "cpu", array.size, None))


def _write(file: BinaryIO, content: Any, storages: dict[str, np.ndarray], tensor_form: Any) -> None:
    writer = PickleWriter(file, tensor_form, protocol=2)
    for value in (MAGIC_NUMBER, PROTOCOL_VERSION, SYSTEM, content):
        writer.dump(value)
    writer.dump(list(storages))  # known only now that the content is written
    for array in storages.values():
        file.write(struct.pack("<q", array.size))
        file.write(np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8).data)
