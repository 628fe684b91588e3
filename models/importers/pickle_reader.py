"""A reader of pickles that makes plain data and runs no code.

Python's own `Unpickler` imports what a file names and calls it. `PickleReader` makes None, booleans, numbers, strings,
memory views, lists, tuples and dictionaries itself. It looks up every other name in an allow-list, and refuses a name
that is not there as soon as the file mentions it.

It never recurses. It hashes only short strings, whose hashes no file can foresee, so dictionaries stay fast. Opcodes and
strings are counted in a `Budget`, so the size of the file bounds time and memory.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from stylert.models.importers.budget import MAX_OPCODES, MAX_TEXT, Budget
from stylert.models.importers.errors import FormatError, printable

#: Bytes of the longest integer. The formats need ten, for torch's magic number.
MAX_INT_BYTES = 16
#: Highest index of the memo. Writers count its entries, each of which takes an opcode.
MAX_MEMO = MAX_OPCODES
#: The first byte in UTF-8 of characters beyond Latin-1 is this or higher. No other byte is.
WIDE = 0xC4
#: Characters of the longest key of a dictionary. Long names would make every lookup of them slow.
MAX_KEY = 200

Constructor = Callable[[tuple[Any, ...]], object]
#: `(module, name)` to the function that stands in for it. None: the file may mention the name, but not call it.
AllowList = Mapping[tuple[str, str], Constructor | None]


@runtime_checkable
class Stateful(Protocol):
    """An object to which the file may give a state after it is made (the BUILD opcode)."""

    def set_state(self, state: object) -> None: ...


@dataclass(frozen=True)
class Global:
    """A global `module.name` that the file mentions. Nothing is imported."""

    module: str
    name: str


class PickleReader:
    """Reads the pickles in `data`.

    Args:
        data: Bytes of the file.
        allow_list: The names that a pickle may mention, and their constructors.
        budget: Opcodes and memory that remain.
        load_persistent: Resolves persistent identifiers. None refuses them.
        operations: What each opcode does. None is `OPERATIONS`, those of checkpoints.
    """

    def __init__(
        self,
        data: memoryview,
        allow_list: AllowList,
        budget: Budget,
        load_persistent: Callable[[object], object] | None = None,
        operations: Mapping[int, Callable[[PickleReader], object]] | None = None,
    ) -> None:
        self.data, self.allow_list, self.budget, self.load_persistent = data, allow_list, budget, load_persistent
        self.operations = OPERATIONS if operations is None else operations

    def read(self, start: int = 0) -> tuple[object, int]:
        """Read the pickle that begins at byte `start`.

        Returns:
            The object, and the position of the byte after the pickle.

        Raises:
            FormatError: The pickle is damaged, or asks for anything that is not allowed.
        """
        self.position = start
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}
        while (opcode := self.read_bytes(1)[0]) != STOP:
            self.budget.spend_opcode()
            operation = self.operations.get(opcode)
            if operation is None:
                raise FormatError(f"its pickle uses the opcode {opcode:#04x}, which no StyleGAN2 file needs")
            operation(self)
        value = self._pop()
        if self.stack or self.marks:
            raise FormatError("its pickle ends with objects left on the stack")
        return value, self.position

    # --- bytes -----------------------------------------------------------------------------------------------------

    def read_bytes(self, count: int) -> memoryview:
        """The next bytes, not copied."""
        if count > len(self.data) - self.position:
            raise FormatError("its pickle is cut short")
        self.position += count
        return self.data[self.position - count : self.position]

    def read_number(self, layout: str) -> Any:
        """The next number, in a layout of the `struct` module."""
        return struct.unpack(layout, self.read_bytes(struct.calcsize(layout)))[0]

    def read_text(self, length: int, encoding: str = "utf-8") -> str:
        """The next `length` bytes as text. A pickle may be read many times, so its strings count each time."""
        data = self.read_bytes(length)
        if length > MAX_TEXT:
            raise FormatError(f"its pickle holds a text of {length / 2**20:,.0f} MiB")
        is_wide = encoding == "utf-8" and length > 0 and np.frombuffer(data, np.uint8).max() >= WIDE
        self.budget.reserve_text(length, bool(is_wide))
        try:
            return str(data, encoding, "surrogatepass")
        except UnicodeDecodeError:
            raise FormatError(f"its pickle holds a string that is not {encoding.upper()}") from None

    def _read_line(self) -> str:
        window = bytes(self.data[self.position : self.position + 256])
        end = window.find(b"\n")
        if end < 0:
            raise FormatError("its pickle holds a name without a line end")
        self.position += end + 1
        return window[:end].decode("utf-8", "replace")

    def _read_int(self, length: int) -> int:
        if length > MAX_INT_BYTES:
            raise FormatError(f"its pickle holds an integer of {length} bytes")
        return int.from_bytes(self.read_bytes(length), "little", signed=True)

    # --- stack and memo --------------------------------------------------------------------------------------------

    def _has_top(self) -> bool:
        """Whether an object lies on the stack above the last mark."""
        return bool(self.stack) and not (self.marks and self.marks[-1] >= len(self.stack))

    def _pop(self) -> Any:
        if not self._has_top():
            raise FormatError("its pickle pops from an empty stack")
        return self.stack.pop()

    def _pop_two(self) -> tuple[Any, Any]:
        """The two topmost objects, the lower one first."""
        second = self._pop()
        first = self._pop()
        return first, second

    def _top(self, kind: type[Any]) -> Any:
        value = self.stack[-1] if self._has_top() else None
        if type(value) is not kind:
            raise FormatError(f"its pickle adds items to an object that is not a {kind.__name__}")
        return value

    def _mark(self) -> None:
        self.marks.append(len(self.stack))

    def _pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise FormatError("its pickle lacks a mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _drop(self) -> None:
        """Drop a mark, or the topmost object."""
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._pop()

    def _write_memo(self, index: int) -> None:
        value = self._pop()
        self.stack.append(value)
        if index > MAX_MEMO:
            raise FormatError(f"its pickle writes the memo entry {index}; writers count from 0")
        self.memo[index] = value

    def _read_memo(self, index: int) -> None:
        if index not in self.memo:
            raise FormatError("its pickle reads a memo entry that it never wrote")
        self.stack.append(self.memo[index])

    # --- containers ------------------------------------------------------------------------------------------------

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _set_items(self, keys_and_values: list[Any]) -> None:
        target = self._top(dict)
        if len(keys_and_values) % 2:
            raise FormatError("its pickle holds a key without a value")
        for key, value in zip(keys_and_values[::2], keys_and_values[1::2], strict=True):
            if not isinstance(key, str | int):
                raise FormatError(f"its pickle uses {printable(key)} as the key of a dictionary")
            # Integers are kept as text. Their own hashes are known, and many that collide would make a dictionary slow.
            name = key if isinstance(key, str) else str(key)
            if len(name) > MAX_KEY:
                raise FormatError(f"its pickle uses a text of {len(name)} characters as the key of a dictionary")
            target[name] = value

    def _dict(self) -> None:
        items = self._pop_to_mark()
        self.stack.append({})
        self._set_items(items)

    # --- names and calls -------------------------------------------------------------------------------------------

    def _global(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise FormatError("its pickle names an object by something other than a string")
        if (module, name) not in self.allow_list:
            full_name = printable(f"{module}.{name}")
            raise FormatError(f"its pickle names {full_name}, which no StyleGAN2 file needs; nothing was run")
        self.stack.append(Global(module, name))

    def _call(self) -> None:
        target, arguments = self._pop_two()
        if not isinstance(target, Global) or type(arguments) is not tuple:
            raise FormatError("its pickle calls an object that is not a name")
        constructor = self.allow_list[target.module, target.name]
        if constructor is None:
            raise FormatError(f"its pickle calls {printable(f'{target.module}.{target.name}')}; nothing was run")
        self.stack.append(constructor(arguments))

    def _build(self) -> None:
        target, state = self._pop_two()
        if isinstance(target, Stateful):
            target.set_state(state)
        elif type(target) is not dict:  # a dictionary's attributes, such as the versions of a state dict, are not needed
            raise FormatError(f"its pickle gives a state to {printable(target)}")
        self.stack.append(target)

    def _persistent(self) -> None:
        if self.load_persistent is None:
            raise FormatError("its pickle refers to data outside of it")
        self.stack.append(self.load_persistent(self._pop()))


def _push(value: object) -> Callable[[PickleReader], None]:
    return lambda reader: reader.stack.append(value)


STOP = pickle.STOP[0]
#: Every opcode that the formats use. Left out: the texts of protocol 0, the extension registry, `inst` and `obj`.
OPERATIONS: dict[int, Callable[[PickleReader], object]] = {
    pickle.PROTO[0]: lambda r: r.read_bytes(1),
    pickle.FRAME[0]: lambda r: r.read_bytes(8),
    pickle.MARK[0]: PickleReader._mark,
    pickle.POP[0]: PickleReader._drop,
    pickle.POP_MARK[0]: lambda r: r._pop_to_mark(),
    pickle.NONE[0]: _push(None),
    pickle.NEWTRUE[0]: _push(True),
    pickle.NEWFALSE[0]: _push(False),
    pickle.BININT[0]: lambda r: r.stack.append(r.read_number("<i")),
    pickle.BININT1[0]: lambda r: r.stack.append(r.read_number("<B")),
    pickle.BININT2[0]: lambda r: r.stack.append(r.read_number("<H")),
    pickle.LONG1[0]: lambda r: r.stack.append(r._read_int(r.read_number("<B"))),
    pickle.LONG4[0]: lambda r: r.stack.append(r._read_int(r.read_number("<I"))),
    pickle.BINFLOAT[0]: lambda r: r.stack.append(r.read_number(">d")),
    pickle.SHORT_BINBYTES[0]: lambda r: r.stack.append(r.read_bytes(r.read_number("<B"))),
    pickle.BINBYTES[0]: lambda r: r.stack.append(r.read_bytes(r.read_number("<I"))),
    pickle.BINBYTES8[0]: lambda r: r.stack.append(r.read_bytes(r.read_number("<Q"))),
    pickle.SHORT_BINUNICODE[0]: lambda r: r.stack.append(r.read_text(r.read_number("<B"))),
    pickle.BINUNICODE[0]: lambda r: r.stack.append(r.read_text(r.read_number("<I"))),
    pickle.BINUNICODE8[0]: lambda r: r.stack.append(r.read_text(r.read_number("<Q"))),
    pickle.EMPTY_TUPLE[0]: _push(()),
    pickle.TUPLE1[0]: lambda r: r._tuple(1),
    pickle.TUPLE2[0]: lambda r: r._tuple(2),
    pickle.TUPLE3[0]: lambda r: r._tuple(3),
    pickle.TUPLE[0]: lambda r: r.stack.append(tuple(r._pop_to_mark())),
    pickle.EMPTY_LIST[0]: lambda r: r.stack.append([]),
    pickle.LIST[0]: lambda r: r.stack.append(r._pop_to_mark()),
    pickle.APPEND[0]: lambda r: r._append([r._pop()]),
    pickle.APPENDS[0]: lambda r: r._append(r._pop_to_mark()),
    # A set becomes the list of its items, so that none of them is hashed.
    pickle.EMPTY_SET[0]: lambda r: r.stack.append([]),
    pickle.ADDITEMS[0]: lambda r: r._append(r._pop_to_mark()),
    pickle.FROZENSET[0]: lambda r: r.stack.append(r._pop_to_mark()),
    pickle.EMPTY_DICT[0]: lambda r: r.stack.append({}),
    pickle.DICT[0]: PickleReader._dict,
    pickle.SETITEM[0]: lambda r: r._set_items(list(r._pop_two())),
    pickle.SETITEMS[0]: lambda r: r._set_items(r._pop_to_mark()),
    pickle.BINPUT[0]: lambda r: r._write_memo(r.read_number("<B")),
    pickle.LONG_BINPUT[0]: lambda r: r._write_memo(r.read_number("<I")),
    pickle.MEMOIZE[0]: lambda r: r._write_memo(len(r.memo)),
    pickle.BINGET[0]: lambda r: r._read_memo(r.read_number("<B")),
    pickle.LONG_BINGET[0]: lambda r: r._read_memo(r.read_number("<I")),
    pickle.GLOBAL[0]: lambda r: r._global(r._read_line(), r._read_line()),
    pickle.STACK_GLOBAL[0]: lambda r: r._global(*r._pop_two()),
    pickle.REDUCE[0]: PickleReader._call,
    pickle.NEWOBJ[0]: PickleReader._call,
    pickle.BUILD[0]: PickleReader._build,
    pickle.BINPERSID[0]: PickleReader._persistent,
}
