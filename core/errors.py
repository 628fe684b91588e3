"""The errors that a user can cause.

Each message is one line: what was wrong, and what to do. The command line prints it and exits with 2.
"""

from __future__ import annotations

import os
from pathlib import Path


class StylertError(Exception):
    """Base of all: a bad file, shape or option, or a missing package."""


class InputError(StylertError):
    """An argument has the wrong form, type, shape or range."""


class CheckpointError(StylertError):
    """A checkpoint is missing or damaged, or its tensors do not match its configuration."""


class BundleError(StylertError):
    """A bundle or a file in it is missing, damaged, tampered with, or of an unknown version."""


class BackendError(StylertError):
    """A backend cannot do its work: not installed, wrong device, unsupported precision, or an outdated engine."""


class OutOfMemory(BackendError):
    """The host or the device has too little memory for this batch."""


class OutputError(StylertError):
    """A result cannot be written to the given path."""


class DataError(StylertError):
    """A dataset is missing, damaged, or does not fit the network."""


class PictureError(DataError):
    """A picture file is damaged, too large, or of a kind that is not read."""


class SigningError(StylertError):
    """Pictures are to be signed, and the credential cannot sign them."""


def missing_extra(package: str, extra: str) -> BackendError:
    """The error for an optional package that is not installed. Its message holds the command that installs it.

    Args:
        package: Name for people, such as `OpenVINO`.
        extra: Name of the extra of stylert that brings the package.
    """
    return BackendError(f"this needs {package}: {install_command(extra)}")


def install_command(extra: str) -> str:
    """The shell command that installs an extra of stylert."""
    return f"pip install 'stylert[{extra}]'"


def as_path(value: object, kind: str, error: type[StylertError] = InputError) -> Path:
    """A path that someone gave. Raises `error` for anything else; `kind` is a word such as `picture`.

    Python itself takes a whole number for an open file, which it then closes.
    """
    try:
        if not isinstance(value, str | os.PathLike) or b"\0" in os.fsencode(value):
            raise ValueError
        return Path(value)
    except (TypeError, ValueError):  # a path of bytes, or a character that no name of a file holds
        raise error(f"a {kind} is named by a path, not {shown(value)}") from None


def shown(value: object, length: int = 60) -> str:
    """A value that someone gave, for a message: its `repr` in one line of printable characters, at most `length` long."""
    try:
        text = repr(value)
    except Exception:  # a whole number of more than 4,300 digits, or an object of the caller's
        text = f"an object of type {type(value).__name__}"
    return shown_line(text, length)


def shown_name(name: str) -> str:
    """The quoted name of a file, for a message. In an archive it may have 60,000 characters."""
    return shown(name, 200)


def printable(text: str) -> str:
    """A text for a terminal, with escape codes in place of characters that are not printed, such as those that control it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown_line(text: str, length: int = 200) -> str:
    """A text for a message, in one line of printable characters, at most `length` long."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= length else f"{line[: length - 3]}..."
