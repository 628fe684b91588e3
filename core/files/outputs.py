"""Checks of the file that a command is asked to write, before its work begins.

A command replaces no input of its own, and only files that stylert wrote. Each kind of file has a mark by which stylert knows its own.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stylert.core.errors import OutputError
from stylert.core.files.atomic import atomic_file, check_writable

#: The version of stylert, which is the first key of a JSON document, or the fourth in results of `bench`.
JSON_MARK = re.compile(rb'\s*\{(?:\s*"(?:schema|kind|created)":\s*(?:"[^"]*"|\d+),){0,3}\s*"stylert":\s*"')
#: Comment at the end of a zip that stylert wrote.
ZIP_COMMENT = b"stylert"
#: Whether a file of this kind is one of stylert, by its first and its last bytes.
MARKS: dict[str, Callable[[bytes, bytes], bool]] = {
    "JSON": lambda head, _: JSON_MARK.match(head) is not None,
    "HTML": lambda head, _: b'<meta name="generator" content="stylert">' in head,
    "zip": lambda head, tail: head[:2] == b"PK" and tail.endswith(ZIP_COMMENT),
    # A snapshot of a training run has more than a generator, and belongs to its folder.
    "safetensors": lambda head, _: head[8:9] == b"{" and b'"stylert"' in head and rb"\"kind\": \"generator\"" in head,
    # Pickles for other projects. The first one begins with the magic number of a torch file.
    "torch file": lambda head, _: head[:4] == b"\x80\x02\x8a\x0a" and b"X\x07\x00\x00\x00stylertX" in head,
    "official pickle": lambda head, _: head[:2] == b"\x80\x03" and b"# written by stylert\n" in head,
    "directions": lambda head, _: head[8:9] == b"{" and b'"stylert"' in head and rb"\"kind\": \"directions\"" in head,
    "latents": lambda head, _: head[8:9] == b"{" and b'"stylert"' in head and rb"\"kind\": \"latents\"" in head,
    "encoder": lambda head, _: head[8:9] == b"{" and b'"stylert"' in head and rb"\"kind\": \"encoder\"" in head,
}
#: A byte that is not UTF-8, as Python holds it in a text.
NOT_UTF_8 = re.compile("[\udc80-\udcff]")
#: Bytes at each end of a file in which its mark is looked for.
END_BYTES = 2**16

#: Names of JSON documents that the files beside them need. No result replaces one, also where it has the mark of a result.
DOCUMENTS = (
    "bundle.json",
    "bundle.signature.json",
    "channels.json",
    "dataset.json",
    "directions.json",
    "engine.json",
    "manifest.json",
    "models.json",
    "parts.json",
    "restorer.json",
    "signing.json",
    "stylert-ray.json",
    "stylert-repository.json",
    "stylert-shards.json",
    "stylert-site.json",
    "wandb.json",
)


def check_output(path: Path | None, kind: str, inputs: Iterable[Path | None] = ()) -> None:
    """Check that a result can be written to the file `path`, and that nothing else is lost. None needs no check.

    Args:
        path: The file. An existing one is replaced only if it is empty, or if stylert wrote it as a file of this kind.
        kind: A name from `MARKS`.
        inputs: Files that the command reads, or folders. The file may not be one of them, or a name of one.

    Raises:
        OutputError: The file cannot be written, is an input, or is not of stylert.
    """
    check_writable(path)
    if path is None:
        return
    check_not_input(path, inputs)
    if not path.exists():
        return
    place = Path(os.path.realpath(path))
    if place.name in DOCUMENTS:
        raise OutputError(f"cannot write {path}: the {place.name} there belongs to other files; choose another name")
    try:
        with open(place, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(END_BYTES)
            file.seek(max(0, size - END_BYTES))
            tail = file.read(END_BYTES)
    except OSError as e:
        raise OutputError(f"cannot write {path}: the file there cannot be read: {e.strerror or e}") from None
    if head and not MARKS[kind](head, tail):
        raise OutputError(f"cannot write {path}: stylert did not write the file there as {kind}; choose another name")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object to a file, whole or not at all, under the mark by which stylert knows it again.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_file(path) as temporary:
        document = document_values({"stylert": _version(), **content})
        temporary.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def document_text(text: str) -> str:
    """A text as documents can hold it: bytes of an argument or of a file's name that are not UTF-8 become codes, such as `\\xe9`.

    Python has such bytes as surrogates, which no encoder and few readers of JSON accept.
    """
    return NOT_UTF_8.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", text).encode("utf-8", "backslashreplace").decode()


def document_values(value: Any) -> Any:
    """The same for every text in dictionaries and lists."""
    if isinstance(value, str):
        return document_text(value)
    if isinstance(value, dict):
        return {document_values(key): document_values(each) for key, each in value.items()}
    return [document_values(each) for each in value] if isinstance(value, list | tuple) else value


def check_not_input(path: Path, inputs: Iterable[Path | None]) -> None:
    """Raise OutputError if `path` names one of the inputs, also by a link."""
    for given in inputs:
        if given is not None and is_same_file(path, given):
            raise OutputError(f"cannot write {path}: it is an input, {given}")


def check_not_around(folder: Path, inputs: Iterable[Path]) -> None:
    """Raise OutputError if one of the inputs is `folder`, which is to be replaced, or lies in it."""
    for given in inputs:
        if is_within(given, folder):
            raise OutputError(f"cannot replace {folder}: an input lies in it, {given}; choose another folder")


def is_same_file(a: Path, b: Path) -> bool:
    """Whether two paths name one file or folder. One that does not exist yet is compared by its path."""
    try:
        return os.path.samefile(a, b)
    except OSError:
        return os.path.realpath(a) == os.path.realpath(b)


def is_within(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or lies below it, after following links."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _version() -> str:
    try:
        return version("stylert")
    except PackageNotFoundError:
        return "from its sources"
