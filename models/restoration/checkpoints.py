"""Reads a public checkpoint of a restoration network. No torch, and no code from the file runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import CheckpointError, as_path
from stylert.core.files.inputs import open_file, stored_bytes
from stylert.core.files.safetensors_files import MAX_FILE_BYTES
from stylert.models.importers.archive import map_file, read_container
from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, printable
from stylert.models.importers.records import StoredTensor
from stylert.models.importers.refusals import refusals_of
from stylert.models.importers.rosinality import WRITER_ENTRY
from stylert.models.importers.weights import Arrays, TensorReader, dropped_entries
from stylert.models.restoration.gfpgan.config import GfpganConfig
from stylert.models.restoration.gfpgan.reader import is_gfpgan, read_gfpgan
from stylert.models.restoration.gpen.config import GpenConfig
from stylert.models.restoration.gpen.reader import is_gpen, read_gpen

RestorerConfig = GfpganConfig | GpenConfig

#: Entries in which the public files keep their state dict, the averaged one first.
ENTRIES = ("params_ema", "params", "g_ema")


@dataclass(frozen=True)
class RestorerWeights:
    """A restoration network as data.

    Attributes:
        config: Its sizes.
        arrays: Its tensors under the public names, float32.
        notes: Sentences for the user: what was left out.
    """

    config: RestorerConfig
    arrays: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reader:
    title: str
    reads: Callable[[Mapping[Any, Any]], bool]
    read: Callable[[TensorReader], tuple[RestorerConfig, Arrays, list[str]]]


_READERS = (_Reader(GfpganConfig.title, is_gfpgan, read_gfpgan), _Reader(GpenConfig.title, is_gpen, read_gpen))


def read_restorer(path: str | Path) -> RestorerWeights:
    """Read a public file of GFP-GAN or GPEN.

    Raises:
        CheckpointError: The file is missing, damaged, hostile, or holds another network. The message is one line.
        OutOfMemory: There is too little memory for its network.
    """
    path = as_path(path, "checkpoint", CheckpointError)
    with open_file(path, CheckpointError, MAX_FILE_BYTES, "checkpoint") as file, refusals_of(path):
        if file.read(16)[8:9] == b"{":
            raise FormatError("it is a safetensors file; restoration networks are read from the .pth files of their projects")
        budget = Budget(stored_bytes(file))
        content, _ = read_container(map_file(file), budget)
        return _read(content, budget)


def restorer_title(content: Mapping[Any, Any]) -> str | None:
    """The kind of restoration network in the content of a file, for people, or None if it is something else."""
    found = _find(content)
    return None if found is None else found[2].title


def _read(content: object, budget: Budget) -> RestorerWeights:
    found = _find(content) if isinstance(content, Mapping) else None
    if found is None:
        keys = ", ".join(map(printable, list(content)[:4])) if isinstance(content, dict) else printable(content)
        raise FormatError(f"it holds no network of {' or '.join(r.title for r in _READERS)}, but {keys or 'nothing'}")
    entry, state, reader = found
    if not all(isinstance(name, str) and isinstance(value, StoredTensor) for name, value in state.items()):
        raise FormatError(f"its {entry} is not a state dict")
    config, arrays, notes = reader.read(TensorReader(entry, dict(state), budget, reader.title))
    if isinstance(content, Mapping) and entry in content:
        notes = [*notes, *dropped_entries(set(content) - {entry, WRITER_ENTRY})]
    return RestorerWeights(config, arrays, tuple(notes))


def _find(content: Mapping[Any, Any]) -> tuple[str, Mapping[Any, Any], _Reader] | None:
    """The name of the entry with a state dict that is known, the state dict, and its reader."""
    states = [(entry, content[entry]) for entry in ENTRIES if isinstance(content.get(entry), dict)]
    for entry, state in (*states, ("state dict", content)):
        for reader in _READERS:
            if reader.reads(state):
                return entry, state, reader
    return None
