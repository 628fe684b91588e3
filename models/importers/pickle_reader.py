"""An interpreter of pickle opcodes that makes plain data and can do nothing else.

Python's own `Unpickler` imports what a file names and calls it; even restricted, it hashes keys of any depth and
allocates what the file declares. This one builds None, booleans, numbers, strings, memory views, lists, tuples and
dicts itself, and asks a table about everything else: a name that is not in the table is refused when it is mentioned,
before anything can be done with it. It never recurses, and its work is bounded by a count of opcodes.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stylert.models.importers.refusal import Refused, shown

#: About ten times what a 1024 px checkpoint with G, D and G_ema takes.
MAX_OPCODES = 500_000
#: The longest integer, in bytes, that any of the formats holds: torch's magic number has ten.
MAX_INT_BYTES = 16

Maker = Callable[[tuple[Any, ...]], object]


class Stateful(Protocol):
    """What a maker returns, where the file may give it a state afterwards."""

    def set_state(self, state: object) -> None: ...


@dataclass(frozen=True)
class Name:
    """`module.name`, as the file mentions it. Nothing is imported."""

    module: str
    name: str


class OpcodeBudget:
    """Opcodes that a file may still spend, over all pickles nested in it."""

    def __init__(self, left: int = MAX_OPCODES) -> None:
        self.left = left


class PickleReader:
    """Reads pickles out of `data` with the names of `makers`.

    `makers` maps `(module, name)` to the function that stands for it, or to None for a name that may be mentioned but
    not called. `persistent` resolves persistent identifiers; without it they are refused. `operations` are the opcodes, those
    of checkpoints by default.
    """

    def __init__(
        self,
        data: memoryview,
        makers: Mapping[tuple[str, str], Maker | None],
        budget: OpcodeBudget,
        persistent: Callable[[object], object] | None = None,
        operations: Mapping[int, Callable[[PickleReader], object]] | None = None,
    ) -> None:
        self.operations = OPERATIONS if operations is None else operations
        self.data, self.makers, self.budget, self.persistent = data, makers, budget, persistent

    def read(self, start: int = 0) -> tuple[object, int]:
        """The object of the pickle that begins at `start`, and where it ends. Raises Refused."""
        self.at = start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        while (code := self._bytes(1)[0]) != STOP:
            if self.budget.left <= 0:
                raise Refused(f"its pickles have more than {MAX_OPCODES} opcodes")
            self.budget.left -= 1
            operation = self.operations.get(code)
            if operation is None:
                raise Refused(f"its pickle uses the opcode {code:#04x}, which no StyleGAN2 file needs")
            operation(self)
        value = self._pop()
        if self.stack or self.marks:
            raise Refused("its pickle ends with things left over")
        return value, self.at

    # --- bytes -----------------------------------------------------------------------------------------------------

    def _bytes(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise Refused("its pickle is cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))[0]

    def _text(self, length: int) -> str:
        try:
            return str(self._bytes(length), "utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise Refused("its pickle holds a string that is not UTF-8") from None

    def _line(self) -> str:
        window = bytes(self.data[self.at : self.at + 256])
        end = window.find(b"\n")
        if end < 0:
            raise Refused("its pickle holds a name without an end")
        self.at += end + 1
        return window[:end].decode("utf-8", "replace")

    def _long(self, length: int) -> None:
        if length > MAX_INT_BYTES:
            raise Refused(f"its pickle holds an integer of {length} bytes")
        self.stack.append(int.from_bytes(self._bytes(length), "little", signed=True))

    # --- stack and memo --------------------------------------------------------------------------------------------

    def _pop(self) -> Any:
        if not self.stack or (self.marks and self.marks[-1] >= len(self.stack)):
            raise Refused("its pickle takes from an empty stack")
        return self.stack.pop()

    def _top(self, kind: type[Any]) -> Any:
        value = self.stack[-1] if self.stack and not (self.marks and self.marks[-1] >= len(self.stack)) else None
        if type(value) is not kind:
            raise Refused(f"its pickle puts items into what is no {kind.__name__}")
        return value

    def _since_mark(self) -> list[Any]:
        if not self.marks:
            raise Refused("its pickle lacks a mark")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _mark(self) -> None:
        self.marks.append(len(self.stack))

    def _drop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._pop()

    def _put(self, index: int) -> None:
        value = self._pop()
        self.stack.append(value)
        self.memo[index] = value

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise Refused("its pickle recalls what it never stored")
        self.stack.append(self.memo[index])

    # --- containers ------------------------------------------------------------------------------------------------

    def _tuple(self, count: int) -> None:
        items = [self._pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def _append(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _set_items(self, flat: list[Any]) -> None:
        target = self._top(dict)
        if len(flat) % 2:
            raise Refused("its pickle holds a key without a value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not isinstance(key, str | int):
                raise Refused(f"its pickle has {shown(key)} for the key of a dictionary")
            target[key] = value

    def _dict(self) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._set_items(items)

    # --- names and calls -------------------------------------------------------------------------------------------

    def _name(self, module: object, name: object) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("its pickle names something by no string")
        if (module, name) not in self.makers:
            raise Refused(f"its pickle names {shown(f'{module}.{name}')}, which no StyleGAN2 file needs; nothing was run")
        self.stack.append(Name(module, name))

    def _call(self) -> None:
        arguments, target = self._pop(), self._pop()
        if not isinstance(target, Name) or type(arguments) is not tuple:
            raise Refused("its pickle calls what is no name")
        maker = self.makers[target.module, target.name]
        if maker is None:
            raise Refused(f"its pickle calls {shown(f'{target.module}.{target.name}')}; nothing was run")
        self.stack.append(maker(arguments))

    def _build(self) -> None:
        state, target = self._pop(), self._pop()
        if hasattr(target, "set_state"):
            target.set_state(state)
        elif type(target) is not dict:  # the attributes of a dictionary, such as a state dict's versions, mean nothing here
            raise Refused(f"its pickle gives a state to {shown(target)}")
        self.stack.append(target)

    def _persistent(self) -> None:
        if self.persistent is None:
            raise Refused("its pickle refers to data outside of it")
        self.stack.append(self.persistent(self._pop()))


def _constant(value: object) -> Callable[[PickleReader], None]:
    return lambda r: r.stack.append(value)


STOP = pickle.STOP[0]
#: Every opcode that the formats use; protocol 0's texts, extension registry, `inst` and `obj` are not among them.
OPERATIONS: dict[int, Callable[[PickleReader], object]] = {
    pickle.PROTO[0]: lambda r: r._bytes(1),
    pickle.FRAME[0]: lambda r: r._bytes(8),
    pickle.MARK[0]: PickleReader._mark,
    pickle.POP[0]: PickleReader._drop,
    pickle.POP_MARK[0]: lambda r: r._since_mark(),
    pickle.NONE[0]: _constant(None),
    pickle.NEWTRUE[0]: _constant(True),
    pickle.NEWFALSE[0]: _constant(False),
    pickle.BININT[0]: lambda r: r.stack.append(r._number("<i")),
    pickle.BININT1[0]: lambda r: r.stack.append(r._number("<B")),
    pickle.BININT2[0]: lambda r: r.stack.append(r._number("<H")),
    pickle.LONG1[0]: lambda r: r._long(r._number("<B")),
    pickle.LONG4[0]: lambda r: r._long(r._number("<I")),
    pickle.BINFLOAT[0]: lambda r: r.stack.append(r._number(">d")),
    pickle.SHORT_BINBYTES[0]: lambda r: r.stack.append(r._bytes(r._number("<B"))),
    pickle.BINBYTES[0]: lambda r: r.stack.append(r._bytes(r._number("<I"))),
    pickle.BINBYTES8[0]: lambda r: r.stack.append(r._bytes(r._number("<Q"))),
    pickle.SHORT_BINUNICODE[0]: lambda r: r.stack.append(r._text(r._number("<B"))),
    pickle.BINUNICODE[0]: lambda r: r.stack.append(r._text(r._number("<I"))),
    pickle.BINUNICODE8[0]: lambda r: r.stack.append(r._text(r._number("<Q"))),
    pickle.EMPTY_TUPLE[0]: _constant(()),
    pickle.TUPLE1[0]: lambda r: r._tuple(1),
    pickle.TUPLE2[0]: lambda r: r._tuple(2),
    pickle.TUPLE3[0]: lambda r: r._tuple(3),
    pickle.TUPLE[0]: lambda r: r.stack.append(tuple(r._since_mark())),
    pickle.EMPTY_LIST[0]: lambda r: r.stack.append([]),
    pickle.LIST[0]: lambda r: r.stack.append(r._since_mark()),
    pickle.APPEND[0]: lambda r: r._append([r._pop()]),
    pickle.APPENDS[0]: lambda r: r._append(r._since_mark()),
    pickle.EMPTY_SET[0]: lambda r: r.stack.append([]),  # a set is its items: nothing of a file is hashed but keys
    pickle.ADDITEMS[0]: lambda r: r._append(r._since_mark()),
    pickle.FROZENSET[0]: lambda r: r.stack.append(r._since_mark()),
    pickle.EMPTY_DICT[0]: lambda r: r.stack.append({}),
    pickle.DICT[0]: PickleReader._dict,
    pickle.SETITEM[0]: lambda r: r._set_items([r._pop(), r._pop()][::-1]),
    pickle.SETITEMS[0]: lambda r: r._set_items(r._since_mark()),
    pickle.BINPUT[0]: lambda r: r._put(r._number("<B")),
    pickle.LONG_BINPUT[0]: lambda r: r._put(r._number("<I")),
    pickle.MEMOIZE[0]: lambda r: r._put(len(r.memo)),
    pickle.BINGET[0]: lambda r: r._get(r._number("<B")),
    pickle.LONG_BINGET[0]: lambda r: r._get(r._number("<I")),
    pickle.GLOBAL[0]: lambda r: r._name(r._line(), r._line()),
    pickle.STACK_GLOBAL[0]: lambda r: r._name(*[r._pop(), r._pop()][::-1]),
    pickle.REDUCE[0]: PickleReader._call,
    pickle.NEWOBJ[0]: PickleReader._call,
    pickle.BUILD[0]: PickleReader._build,
    pickle.BINPERSID[0]: PickleReader._persistent,
}
