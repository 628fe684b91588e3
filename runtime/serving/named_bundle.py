"""Bundles by the names that requests and pages use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stylert.core.errors import InputError, shown


@dataclass(frozen=True)
class NamedBundle:
    """A bundle and its name.

    Attributes:
        name: Letters, digits, - and _.
        path: Its folder.
        precisions: The precisions to use, the default one first; empty for a choice by the caller.

    Raises:
        InputError: The name has other characters.
    """

    name: str
    path: Path
    precisions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise InputError(f"a bundle has a name of letters, digits, - and _, not {shown(self.name)}: use NAME=FOLDER")


def check_names(bundles: Sequence[NamedBundle]) -> None:
    """Raise InputError if two bundles have one name."""
    names = [bundle.name for bundle in bundles]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"two bundles are named {min(twice)}: name them with NAME=FOLDER")
