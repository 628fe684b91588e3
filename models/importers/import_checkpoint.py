"""Reads a checkpoint of any known project into stylert's configuration and arrays, and writes stylert's own file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from stylert.core.errors import CheckpointError, InputError, as_path, shown
from stylert.core.files.inputs import open_file, stored_bytes
from stylert.core.files.safetensors_files import MAX_FILE_BYTES
from stylert.models.checkpoint import (
    AnyWeights,
    GeneratorWeights,
    NetworkWeights,
    read_generator,
    read_metadata,
    write_generator,
)
from stylert.models.importers.archive import map_file, read_container
from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, printable
from stylert.models.importers.official import read_official
from stylert.models.importers.records import StoredModule, StoredObject
from stylert.models.importers.refusals import refusals_of
from stylert.models.importers.rosinality import is_rosinality, read_rosinality
from stylert.models.importers.stylegan1_ports import stylegan1_port
from stylert.models.importers.stylegan3 import is_stylegan3, read_stylegan3
from stylert.models.importers.tensorflow import read_tensorflow
from stylert.models.importers.tensorflow_records import is_tensorflow
from stylert.models.importers.tensorflow_stylegan1 import is_tensorflow_stylegan1, read_tensorflow_stylegan1
from stylert.models.importers.weights import ImportedNetworks
from stylert.models.network_config import BaseGeneratorConfig
from stylert.models.network_kinds import require_stylegan2
from stylert.models.restoration.checkpoints import restorer_title
from stylert.models.stylegan2.config import DiscriminatorConfig


@dataclass(frozen=True)
class ImportedCheckpoint:
    """A checkpoint in stylert's terms. Arrays are float32 under the official names.

    Attributes:
        format: Project and container that the file comes from, or "stylert".
        config: Configuration of the generators.
        arrays: The averaged generator, G_ema, which makes the images.
        notes: Sentences for the user: the parts that were converted, dropped or assumed.
        info: Free facts to keep in stylert's own file.
        raw: The generator as it was trained, G. None where the file has none that stylert can represent.
        discriminator_config: Configuration of the discriminator, likewise.
        discriminator: The discriminator, D, likewise.
    """

    format: str
    config: BaseGeneratorConfig
    arrays: dict[str, np.ndarray]
    notes: tuple[str, ...]
    info: dict[str, Any]
    raw: dict[str, np.ndarray] | None = None
    discriminator_config: DiscriminatorConfig | None = None
    discriminator: dict[str, np.ndarray] | None = None


def read_any_generator(path: str | Path) -> AnyWeights:
    """Read the averaged generator of a checkpoint of any known project. Raises as `import_checkpoint`."""
    imported = import_checkpoint(path, training=False)
    return NetworkWeights(imported.config, imported.arrays, imported.info)


def read_stylegan2_generator(path: str | Path, purpose: str) -> GeneratorWeights:
    """As `read_any_generator`, for a stage that knows StyleGAN2 alone. `purpose` names the stage.

    Raises:
        CheckpointError: As `import_checkpoint`.
        InputError: The file holds another network.
    """
    weights = read_any_generator(path)
    return NetworkWeights(require_stylegan2(weights.config, path, purpose), weights.arrays, weights.info)


def import_checkpoint(path: str | Path, training: bool = True) -> ImportedCheckpoint:
    """Read a checkpoint of a project that the package `importers` lists, or of stylert.

    No code from the file runs. The size of the file, without its holes, bounds time and memory.

    Args:
        path: The file.
        training: Whether to read G and D as well.

    Raises:
        CheckpointError: The file is missing or refused. The message says why in one line.
        OutOfMemory: There is too little memory for its networks.
    """
    path = as_path(path, "checkpoint", CheckpointError)
    with open_file(path, CheckpointError, MAX_FILE_BYTES, "checkpoint") as file:
        return _import_file(path, file, training)


def _import_file(path: Path, file: BinaryIO, training: bool) -> ImportedCheckpoint:
    with refusals_of(path):
        head = file.read(16)
        if head[8:9] == b"{":  # safetensors: the length of the header in 8 bytes, then its JSON
            return _read_own(path)
        return import_bytes(map_file(file), training, stored_bytes(file))


def import_bytes(data: memoryview, training: bool = True, stored: int | None = None) -> ImportedCheckpoint:
    """`import_checkpoint` from memory, for the formats of other projects.

    Args:
        data: Bytes of the file.
        training: Whether to read G and D as well.
        stored: The number of bytes without the holes of the file, which bounds the memory. None counts them all.

    Raises:
        FormatError: The file is refused.
    """
    budget = Budget(len(data) if stored is None else stored)
    content, container = read_container(data, budget)
    read_networks, project = _reader_of(content)
    with np.errstate(all="ignore"):  # values that overflow are refused below
        networks = read_networks(content, training, budget)
    present = {"G_ema": networks.generator, "G": networks.raw, "D": networks.discriminator}
    for network, arrays in present.items():
        for name, array in (arrays or {}).items():
            if not np.isfinite(array).all():
                raise FormatError(f"{network}: {name} goes beyond float32 in the conversion")
    config = networks.config
    converted = ", ".join(network for network, arrays in present.items() if arrays is not None)
    count = sum(array.size for array in networks.generator.values())
    summary = f"converted {converted}: {config.size_text}, {config.form}, {count / 1e6:.2f} M values in G_ema"
    format_name, notes = f"{project}, {container}", (summary, *networks.notes)
    return ImportedCheckpoint(
        format_name,
        config,
        networks.generator,
        notes,
        {"imported": {"format": format_name, "notes": list(notes)}},
        networks.raw,
        networks.discriminator_config,
        networks.discriminator,
    )


def write_imported(path: str | Path, imported: ImportedCheckpoint) -> None:
    """Write the averaged generator as stylert's own file. An existing file stays until the new one is complete.

    Raises:
        InputError: This is no imported checkpoint.
        OutputError: The file cannot be written.
    """
    if not isinstance(imported, ImportedCheckpoint):
        raise InputError(f"this is no imported checkpoint: {shown(imported)}")
    write_generator(path, imported.config, imported.arrays, info=imported.info)


def _reader_of(content: object) -> tuple[Callable[[Any, bool, Budget], ImportedNetworks], str]:
    """The reader of this content, and the name of its project."""
    if is_stylegan3(content):
        return read_stylegan3, "stylegan3"
    if isinstance(content, StoredModule):
        return read_official, "stylegan2-ada-pytorch or stylegan3"
    if is_tensorflow_stylegan1(content):
        return read_tensorflow_stylegan1, "StyleGAN (TensorFlow)"
    if is_tensorflow(content):
        return read_tensorflow, "StyleGAN2 (TensorFlow)"
    if isinstance(content, dict):
        if any(isinstance(content.get(name), StoredModule) for name in ("G", "D", "G_ema")):
            return read_official, "stylegan2-ada-pytorch or stylegan3"
        if (port := stylegan1_port(content)) is not None:
            return port.read, port.project
        if (title := restorer_title(content)) is not None:
            raise FormatError(f"it is a {title} network, which restores photographs: stylert restorer export")
        if is_rosinality(content):
            return read_rosinality, "rosinality"
        keys = ", ".join(printable(key) for key in list(content)[:4])
        raise FormatError(f"it holds no StyleGAN networks, but {keys or 'nothing'}")
    if isinstance(content, StoredObject):
        raise FormatError("it holds a single TensorFlow network, where StyleGAN's files hold three")
    raise FormatError(f"it holds {printable(content)} and no networks")


def _read_own(path: Path) -> ImportedCheckpoint:
    """A checkpoint of stylert itself."""
    kind = read_metadata(path)["kind"]
    weights = read_generator(path)
    notes = ["nothing to convert: the file is stylert's own"]
    if kind == "training":
        notes.append("read: G_ema; to go on training, resume from the file itself, which has its optimizers")
    return ImportedCheckpoint("stylert", weights.config, weights.arrays, tuple(notes), weights.info)
