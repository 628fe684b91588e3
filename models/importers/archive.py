"""The containers that hold pickles: a plain pickle, and the three forms of `torch.save`.

`read_container` reads any of them:

- `read_pickle`: a plain pickle, as the official code writes it. Each of its parameters nests a legacy torch file.
- `read_torch_zip`: the zip archive of `torch.save` since torch 1.6.
- `read_torch_legacy`: the series of pickles of `torch.save` before torch 1.6.

The zip reader accepts only what torch writes. Members are stored, never compressed, so a file holds no more than its own
bytes, and a storage is a window on them.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import BinaryIO

from stylert.models.importers.allow_list import allow_list, storage_names
from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, printable
from stylert.models.importers.pickle_reader import Global, PickleReader
from stylert.models.importers.records import MAX_LENGTH, STORAGE_BYTES, Storage

ZIP_MAGIC = b"PK\x03\x04"
#: The first pickle of a legacy torch file: protocol 2, a ten-byte integer, stop.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_PROTOCOL = 1001
MAX_MEMBERS = 65_535

#: Signatures of the zip format: end of the directory, the same of zip64, its locator, and an entry of the directory.
END, END64, LOCATOR64, ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
#: A 32-bit size or offset of this value stands in the zip64 extra field instead.
IN_ZIP64 = 0xFFFFFFFF
DAMAGED_DIRECTORY = "its zip directory is damaged or cut short"


def map_file(file: BinaryIO) -> memoryview:
    """The bytes of an open file, read from disk only where they are used.

    So a file that declares much costs no memory. Should another program shorten the file in the meantime, SIGBUS ends the
    process. Nothing is written before a file is read to its end, so no output is lost, and the command can run again.
    """
    is_empty = os.fstat(file.fileno()).st_size == 0
    return memoryview(b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def read_container(data: memoryview, budget: Budget) -> tuple[object, str]:
    """The content of a file, and the name of its container. Raises FormatError."""
    head = bytes(data[: len(LEGACY_MAGIC)])
    if head.startswith(ZIP_MAGIC):
        return read_torch_zip(data, budget), "torch zip"
    if head == LEGACY_MAGIC:
        return read_torch_legacy(data, budget), "torch legacy"
    if head[:1] == b"\x80":  # the opcode PROTO, with which every pickle of protocol 2 or later begins
        return read_pickle(data, budget), "pickle"
    raise FormatError("it is no pickle, torch file or safetensors")


def read_pickle(data: memoryview, budget: Budget) -> object:
    """Read the object of a plain pickle. Raises FormatError."""
    names = allow_list(lambda nested: _nested_storage(nested, budget), budget)
    return PickleReader(data, names, budget).read()[0]


def read_torch_zip(data: memoryview, budget: Budget) -> object:
    """Read the object of a torch zip archive. Raises FormatError."""
    members = _zip_members(data)
    roots = [name.removesuffix("data.pkl") for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise FormatError("it is a zip archive, but not one of torch.save: it has no single data.pkl")
    root = roots[0]
    if bytes(members.get(f"{root}byteorder", memoryview(b"little"))) != b"little":
        raise FormatError("its tensors are not little-endian")

    folder = f"{root}data/"
    storages = {name.removeprefix(folder): content for name, content in members.items() if name.startswith(folder)}

    def load_storage(reference: object) -> Storage:
        kind, key, numel = _storage_reference(reference)
        if key not in storages:
            raise FormatError(f"it lacks the storage {printable(key)}")
        content = storages[key]
        if len(content) != numel * STORAGE_BYTES[kind]:
            raise FormatError(
                f"it declares {printable(numel)} elements in the storage {printable(key)} of {len(content)} bytes"
            )
        return Storage(kind, numel, content)

    names = allow_list(lambda nested: _nested_storage(nested, budget), budget)
    return PickleReader(members[f"{root}data.pkl"], names, budget, load_storage).read()[0]


def read_torch_legacy(data: memoryview, budget: Budget) -> object:
    """Read the object of a legacy torch file. Raises FormatError."""
    return _read_legacy(data, budget, nested=False)


# --- the legacy container ------------------------------------------------------------------------------------------


def _nested_storage(data: memoryview, budget: Budget) -> Storage:
    """The storage in a legacy torch file that a pickle nests in a parameter."""
    value = _read_legacy(data, budget, nested=True)
    if not isinstance(value, Storage):
        raise FormatError("its pickle holds a tensor whose bytes are not a storage")
    return value


def _read_legacy(data: memoryview, budget: Budget, nested: bool) -> object:
    """Read pickles in this order: magic number, protocol, system, the object, the keys of its storages.

    Each storage follows them as a count of elements and its bytes. A `nested` file may mention storages alone.
    """
    if bytes(data[: len(LEGACY_MAGIC)]) != LEGACY_MAGIC:
        raise FormatError("it holds tensors in a form that is not torch's")
    storages: dict[str, Storage] = {}

    def load_storage(reference: object) -> Storage:
        kind, key, numel = _storage_reference(reference)
        storage = storages.setdefault(key, Storage(kind, numel))
        if (storage.kind, storage.numel) != (kind, numel):
            raise FormatError(f"it declares the storage {printable(key)} in two ways")
        return storage

    names = storage_names() if nested else allow_list(lambda inner: _nested_storage(inner, budget), budget)
    reader = PickleReader(data, names, budget, load_storage)
    protocol, position = reader.read(len(LEGACY_MAGIC))
    system, position = reader.read(position)
    if protocol != LEGACY_PROTOCOL or type(system) is not dict or system.get("little_endian") is not True:
        raise FormatError("it was written by an unknown version of torch, or is not little-endian")
    value, position = reader.read(position)
    keys, position = reader.read(position)
    if type(keys) is not list or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise FormatError("its list of storages does not match its tensors")
    for key in keys:
        storage = storages[key]
        size = storage.numel * STORAGE_BYTES[storage.kind]
        if len(data) - position < 8 + size or struct.unpack_from("<q", data, position)[0] != storage.numel:
            raise FormatError(
                f"it declares {printable(storage.numel)} elements in the storage {printable(key)}, which holds another number"
            )
        position += 8
        storage.data = data[position : position + size]
        position += size
    return value


def _storage_reference(reference: object) -> tuple[str, str, int]:
    """Kind, key and number of elements, from the persistent identifier of a storage."""
    match reference:
        # The legacy container adds the view of a storage, which modern versions of torch leave at None.
        case ("storage", Global("torch", kind), str(key), str(), int(numel)) | (
            "storage", Global("torch", kind), str(key), str(), int(numel), None
        ) if kind in STORAGE_BYTES and 0 <= numel < MAX_LENGTH and len(key) <= 64:  # fmt: skip
            return kind, key, numel
    raise FormatError("its pickle refers to data in an unknown form")


# --- the zip container ---------------------------------------------------------------------------------------------


def _zip_members(data: memoryview) -> dict[str, memoryview]:
    """The stored members of a zip archive by name."""
    try:
        return _read_directory(data)
    except (struct.error, UnicodeDecodeError):
        raise FormatError(DAMAGED_DIRECTORY) from None


def _read_directory(data: memoryview) -> dict[str, memoryview]:
    count, start = _directory_place(data)
    members: dict[str, memoryview] = {}
    position = start
    for _ in range(count):
        if bytes(data[position : position + 4]) != ENTRY:
            raise FormatError(DAMAGED_DIRECTORY)
        flags, method = struct.unpack_from("<2H", data, position + 8)
        packed_size, size, name_length, extra_length, comment_length = struct.unpack_from("<2I3H", data, position + 20)
        (offset,) = struct.unpack_from("<I", data, position + 42)
        name_end = position + 46 + name_length
        name = str(data[position + 46 : name_end], "utf-8")
        extra = data[name_end : name_end + extra_length]
        size, packed_size, offset = _from_zip64(extra, [size, packed_size, offset])
        if method or packed_size != size:
            raise FormatError(f"its zip member {printable(name)} is compressed, which torch.save never does")
        if flags & 1 or name in members:
            raise FormatError(f"its zip member {printable(name)} is encrypted or there twice")
        if bytes(data[offset : offset + 4]) != ZIP_MAGIC:
            raise FormatError(f"its zip member {printable(name)} is not where the directory says")
        local_name_length, local_extra_length = struct.unpack_from("<2H", data, offset + 26)
        begin = offset + 30 + local_name_length + local_extra_length
        if begin + size > start:
            raise FormatError(f"its zip member {printable(name)} is cut short")
        members[name] = data[begin : begin + size]
        position = name_end + extra_length + comment_length
    return members


def _directory_place(data: memoryview) -> tuple[int, int]:
    """Number of entries in the directory, and the position of its first byte."""
    end = len(data) - 22
    if end < 0 or bytes(data[end : end + 4]) != END:
        raise FormatError(DAMAGED_DIRECTORY)
    count, size, start = struct.unpack_from("<H2I", data, end + 10)
    if bytes(data[max(end - 20, 0) : max(end - 16, 0)]) == LOCATOR64:
        (end64,) = struct.unpack_from("<Q", data, end - 12)
        if bytes(data[end64 : end64 + 4]) != END64:
            raise FormatError(DAMAGED_DIRECTORY)
        count, size, start = struct.unpack_from("<3Q", data, end64 + 32)
    if count > MAX_MEMBERS or start + size > len(data):
        raise FormatError("its zip directory declares more than the file holds")
    return count, start


def _from_zip64(extra: memoryview, fields: list[int]) -> list[int]:
    """Sizes and offset of a member. Those that 32 bits cannot hold stand in the zip64 extra field."""
    if IN_ZIP64 not in fields:
        return fields
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        if tag == 1:
            values = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            return [next(values, field) if field == IN_ZIP64 else field for field in fields]
        position += 4 + length
    return fields
