"""The containers of `torch.save`: the zip archive, the older stream of pickles, and that stream nested in a parameter.

Written for what torch writes and nothing else: members of an archive are stored, never compressed, so that a file holds
no more than its own bytes, and a storage is a window on them.
"""

from __future__ import annotations

import struct
from typing import Any

from stylert.models.importers.pickle_reader import Name, OpcodeBudget, PickleReader
from stylert.models.importers.records import STORAGE_BYTES, Storage, allow_list
from stylert.models.importers.refusal import Refused, shown

ZIP_MAGIC = b"PK\x03\x04"
#: The first pickle of a legacy torch file: protocol 2, a ten-byte integer, stop.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_PROTOCOL = 1001
MAX_MEMBERS = 65_535

END, END64, LOCATOR64, ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"


def read_pickle(data: memoryview) -> object:
    """The object of a plain pickle, which official files are."""
    budget = OpcodeBudget()
    return PickleReader(data, allow_list(lambda nested: _nested_storage(nested, budget)), budget).read()[0]


def read_torch_zip(data: memoryview) -> object:
    """The object of a file that `torch.save` wrote since torch 1.6."""
    members = _members(data)
    roots = [name.removesuffix("data.pkl") for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Refused("it is a zip archive, but not one of torch.save: it has no single data.pkl")
    root = roots[0]
    if bytes(members.get(f"{root}byteorder", memoryview(b"little"))) != b"little":
        raise Refused("its tensors are not little-endian")

    def storage(reference: object) -> Storage:
        kind, key, numel = _storage_reference(reference)
        if f"{root}data/{key}" not in members:
            raise Refused(f"it lacks the storage {shown(key)}")
        content = members[f"{root}data/{key}"]
        if len(content) != numel * STORAGE_BYTES[kind]:
            raise Refused(f"it declares {shown(numel)} elements in the storage {shown(key)} of {len(content)} bytes")
        return Storage(kind, numel, content)

    budget = OpcodeBudget()
    makers = allow_list(lambda nested: _nested_storage(nested, budget))
    return PickleReader(members[f"{root}data.pkl"], makers, budget, storage).read()[0]


def read_torch_legacy(data: memoryview) -> object:
    """The object of a file that `torch.save` wrote before torch 1.6."""
    return _legacy(data, OpcodeBudget(), nested=False)


def _nested_storage(data: memoryview, budget: OpcodeBudget) -> Storage:
    value = _legacy(data, budget, nested=True)
    if not isinstance(value, Storage):
        raise Refused("its pickle holds a tensor whose bytes are no storage")
    return value


def _legacy(data: memoryview, budget: OpcodeBudget, nested: bool) -> object:
    """Magic, protocol, system, the object, the keys of its storages, then each storage as a count and its elements."""
    if bytes(data[: len(LEGACY_MAGIC)]) != LEGACY_MAGIC:
        raise Refused("it holds tensors in a form that is not torch's")
    storages: dict[str, Storage] = {}

    def storage(reference: object) -> Storage:
        kind, key, numel = _storage_reference(reference)
        known = storages.setdefault(key, Storage(kind, numel))
        if (known.kind, known.numel) != (kind, numel):
            raise Refused(f"it declares the storage {shown(key)} in two ways")
        return known

    names: dict[tuple[str, str], Any] = {("torch", name): None for name in STORAGE_BYTES}
    makers = names if nested else allow_list(lambda inner: _nested_storage(inner, budget))
    reader = PickleReader(data, makers, budget, storage)
    at = len(LEGACY_MAGIC)
    protocol, at = reader.read(at)
    system, at = reader.read(at)
    if protocol != LEGACY_PROTOCOL or type(system) is not dict or system.get("little_endian") is not True:
        raise Refused("it was written by an unknown version of torch, or is not little-endian")
    value, at = reader.read(at)
    keys, at = reader.read(at)
    if type(keys) is not list or not all(isinstance(k, str) for k in keys) or sorted(keys) != sorted(storages):
        raise Refused("its list of storages does not match its tensors")
    for key in keys:
        known = storages[key]
        size = known.numel * STORAGE_BYTES[known.kind]
        if len(data) - at < 8 + size or struct.unpack_from("<q", data, at)[0] != known.numel:
            raise Refused(f"it declares {shown(known.numel)} elements in the storage {shown(key)}, which has not as many")
        known.data = data[at + 8 : at + 8 + size]
        at += 8 + size
    return value


def _storage_reference(reference: object) -> tuple[str, str, int]:
    match reference:
        case ("storage", Name("torch", kind), str(key), str(), int(numel), *rest) if (
            kind in STORAGE_BYTES and 0 <= numel < 2**48 and len(key) <= 64 and all(r is None for r in rest)
        ):
            return kind, key, numel
    raise Refused("its pickle refers to data in an unknown form")


def _members(data: memoryview) -> dict[str, memoryview]:
    """The stored members of a zip archive by name."""
    try:
        return _directory(data)
    except (struct.error, UnicodeDecodeError):
        raise Refused("its zip directory is damaged or cut short") from None


def _directory(data: memoryview) -> dict[str, memoryview]:
    end = len(data) - 22
    if end < 0 or bytes(data[end : end + 4]) != END:
        raise Refused("its zip directory is damaged or cut short")
    count, size, start = struct.unpack_from("<H2I", data, end + 10)
    if bytes(data[max(end - 20, 0) : max(end - 16, 0)]) == LOCATOR64:
        (end64,) = struct.unpack_from("<Q", data, end - 12)
        if bytes(data[end64 : end64 + 4]) != END64:
            raise Refused("its zip directory is damaged or cut short")
        count, size, start = struct.unpack_from("<3Q", data, end64 + 32)
    if count > MAX_MEMBERS or start + size > len(data):
        raise Refused("its zip directory declares more than there is")
    members: dict[str, memoryview] = {}
    at = start
    for _ in range(count):
        if bytes(data[at : at + 4]) != ENTRY:
            raise Refused("its zip directory is damaged or cut short")
        flags, method = struct.unpack_from("<2H", data, at + 8)
        packed, full, n, m, k = struct.unpack_from("<2I3H", data, at + 20)
        (local,) = struct.unpack_from("<I", data, at + 42)
        name = str(data[at + 46 : at + 46 + n], "utf-8")
        full, packed, local = _wide(data[at + 46 + n : at + 46 + n + m], [full, packed, local])
        if method or packed != full:
            raise Refused(f"its zip member {shown(name)} is compressed, which torch.save never does")
        if flags & 1 or name in members:
            raise Refused(f"its zip member {shown(name)} is encrypted or there twice")
        if bytes(data[local : local + 4]) != ZIP_MAGIC:
            raise Refused(f"its zip member {shown(name)} is not where the directory says")
        skip, extra = struct.unpack_from("<2H", data, local + 26)
        begin = local + 30 + skip + extra
        if begin + full > start:
            raise Refused(f"its zip member {shown(name)} is cut short")
        members[name] = data[begin : begin + full]
        at += 46 + n + m + k
    return members


def _wide(extra: memoryview, fields: list[int]) -> list[int]:
    """Sizes and offset, each from the zip64 extra field where the directory's 32 bits are full."""
    if all(f != 0xFFFFFFFF for f in fields):
        return fields
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, at)
        if tag == 1:
            values = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            return [next(values, f) if f == 0xFFFFFFFF else f for f in fields]
        at += 4 + length
    return fields
