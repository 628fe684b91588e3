"""JSON documents from files, checked once, as they are read.

A document is a dataclass. Its fields say which keys the file has, and of which types. `__post_init__` checks ranges.
Keys that the dataclass does not name are passed over, so that an older stylert reads what a newer one wrote.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from stylert.core.errors import StylertError, shown_line

Document = TypeVar("Document")

#: Bytes of a document, unless the reader of its kind allows more.
MAX_BYTES = 4 * 2**20
#: Lists and objects in a document, unless the reader of its kind allows more. Each takes far more memory than its two brackets.
MAX_CONTAINERS = 2**18
#: Levels of lists and objects in each other. stylert's own documents have less than ten.
MAX_DEPTH = 32
#: Digits of a number. A 128-bit integer has 39.
MAX_DIGITS = 40

#: A string, a bracket, or numbers. A string before a colon is a key. `digits` is a run of digits that no further text follows, or
#: that is too long: a list of short numbers is one token. No text takes more than two passes.
TOKEN = re.compile(
    rb'"(?:[^"\\]|\\.?)*+"?(?P<key>\s*+:)?+|[\[{\]}]|(?:[0-9]{1,%d}+[^0-9"\[\]{}]++)++|(?P<digits>[0-9]++)' % MAX_DIGITS,
    re.DOTALL,
)


def read_document(
    data: bytes | str,
    kind: type[Document],
    name: str,
    error: type[StylertError],
    max_bytes: int = MAX_BYTES,
    max_containers: int = MAX_CONTAINERS,
) -> Document:
    """Read a JSON document.

    Args:
        data: The text of the document, in UTF-8.
        kind: The type to read: a dataclass, or a type such as `dict[str, float]`.
        name: Subject of the messages, such as `checkpoint a.safetensors: its metadata`.
        error: Class of the error that refuses the document.
        max_bytes: Length that is allowed.
        max_containers: Number of lists and objects that is allowed, with the brackets in strings.

    Raises:
        StylertError: An `error` with one line: the text is too long, has too many lists, is nested too deep, is not JSON, has a
            key twice, or does not fit `kind`.
    """
    try:
        content = data.encode() if isinstance(data, str) else data
        if len(content) > max_bytes:
            raise ValueError(f"it is longer than {max_bytes:,} bytes")
        if content.count(b"[") + content.count(b"{") > max_containers:
            raise ValueError(f"it holds more than {max_containers:,} lists and objects")
        _check_bounds(content)
        return msgspec.json.decode(content, type=kind)
    except (ValueError, TypeError, OverflowError) as e:
        raise error(_message(name, e)) from None


def read_part(value: object, kind: type[Document], name: str, error: type[StylertError]) -> Document:
    """The same for a part of a document that was read before as plain dictionaries and lists.

    Raises:
        StylertError: An `error` with one line: the part does not fit `kind`.
    """
    try:
        return msgspec.convert(value, kind)
    except (ValueError, TypeError, OverflowError) as e:
        raise error(_message(name, e)) from None


def _check_bounds(data: bytes) -> None:
    """Raise ValueError for too deep nesting, a number of too many digits, or an object with a key twice.

    Readers choose differently between the two values of a key, so such a document does not mean the same everywhere.
    """
    keys_of: list[set[bytes]] = []  # of every list and object that is open
    for token in TOKEN.finditer(data):
        first = data[token.start()]
        if first in b"[{":
            if len(keys_of) == MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
            keys_of.append(set())
        elif first in b"]}":
            if keys_of:
                keys_of.pop()
        elif first != ord('"'):
            if len(token["digits"] or b"") > MAX_DIGITS:
                raise ValueError(f"it holds a number of more than {MAX_DIGITS} digits")
        elif token["key"] is not None and keys_of:
            key = data[token.start() : token.start("key")]
            if b"\\" in key:  # one key can be written in several ways
                key = msgspec.json.encode(msgspec.json.decode(key, type=str))
            if key in keys_of[-1]:
                raise ValueError(f"it has the key {shown_line(key.decode(errors='replace'), 60)} twice")
            keys_of[-1].add(key)


def _message(name: str, reason: Exception) -> str:
    # The reason may quote the document.
    return f"{name} is not valid: {shown_line(str(reason))}"
