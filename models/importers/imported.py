"""The way in: a checkpoint of any project that has one of StyleGAN2's forms, as stylert's configuration and arrays."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import CheckpointError
from stylert.models.checkpoint import GeneratorWeights, read_generator, read_metadata, write_generator
from stylert.models.importers.archive import LEGACY_MAGIC, ZIP_MAGIC, read_pickle, read_torch_legacy, read_torch_zip
from stylert.models.importers.official import official_networks
from stylert.models.importers.records import Allowance, Module, Record
from stylert.models.importers.refusal import Refused, shown
from stylert.models.importers.rosinality import is_rosinality, rosinality_networks
from stylert.models.importers.tensorflow import is_tensorflow, tensorflow_networks
from stylert.models.importers.weights import Networks
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig

#: A 1024 px checkpoint with both optimizers is near 1 GB.
MAX_FILE_BYTES = 8 * 2**30
#: Arrays may take this many times the bytes of the file: twice for float16 stored, and once more for shared tensors.
MAX_EXPANSION = 4
#: What a file may cost whatever its size: the reading of small ones.
MIN_ALLOWANCE = 2**20

#: What damaged data can raise in the interpreter or NumPy. The readers check before they use, so this is the second line.
DAMAGE = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True)
class Imported:
    """What a checkpoint holds, in stylert's terms. Arrays are float32 under the official names.

    `arrays` is the averaged generator, which makes the images. `raw` is the generator that was trained, and
    `discriminator` its opponent, where the file has them and they can be represented. `notes` says in words what was
    converted, dropped or assumed.
    """

    format: str
    config: GeneratorConfig
    arrays: dict[str, np.ndarray]
    notes: tuple[str, ...]
    raw: dict[str, np.ndarray] | None = None
    discriminator_config: DiscriminatorConfig | None = None
    discriminator: dict[str, np.ndarray] | None = None
    info: dict[str, Any] | None = None


def import_checkpoint(path: str | Path, training: bool = True) -> Imported:
    """Read a checkpoint of stylegan2-ada-pytorch, stylegan3 (its StyleGAN2), rosinality, TensorFlow StyleGAN2, or stylert.

    No code from the file runs. Memory is bounded by `MAX_EXPANSION` times the file and time by its size; `training`
    False leaves out G and D. Raises CheckpointError, one line that names what was refused.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist" if not path.exists() else f"checkpoint {path} is not a file")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise Refused(f"it is larger than {MAX_FILE_BYTES // 2**30} GiB")
        with path.open("rb") as f:
            head = f.read(16)
            if head[8:9] == b"{":
                return _own(path)
            data = memoryview(mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")
        return import_bytes(data, training)
    except Refused as e:
        raise CheckpointError(f"cannot import {path}: {e}") from None
    except OSError as e:
        raise CheckpointError(f"cannot import {path}: {e.strerror or e}") from None
    except DAMAGE as e:
        raise CheckpointError(f"cannot import {path}: it is damaged ({type(e).__name__})") from None


def import_bytes(data: memoryview, training: bool = True) -> Imported:
    """`import_checkpoint` of the foreign formats, from memory. Raises Refused."""
    value, container = _container(data)
    allowance = Allowance(MAX_EXPANSION * len(data) + MIN_ALLOWANCE)
    reader, layout = _layout(value)
    with np.errstate(all="ignore"):  # what overflows is refused below
        networks = reader(value, training, allowance)
    found = [("G", networks.raw), ("D", networks.discriminator)]
    for name, arrays in [("G_ema", networks.generator), *found]:
        for key, array in (arrays or {}).items():
            if not np.isfinite(array).all():
                raise Refused(f"{name}: {key} goes beyond float32 in the conversion")
    held = ", ".join(["G_ema", *(name for name, arrays in found if arrays is not None)])
    count = sum(a.size for a in networks.generator.values())
    cfg = networks.config
    summary = f"converted {held}: {cfg.resolution} px, {cfg.architecture}, {count / 1e6:.2f} M values in G_ema"
    return Imported(
        f"{layout}, {container}",
        cfg,
        networks.generator,
        (summary, *networks.notes),
        networks.raw,
        networks.discriminator_config,
        networks.discriminator,
    )


def _container(data: memoryview) -> tuple[object, str]:
    head = bytes(data[: len(LEGACY_MAGIC)])
    if head.startswith(ZIP_MAGIC):
        return read_torch_zip(data), "torch zip"
    if head == LEGACY_MAGIC:
        return read_torch_legacy(data), "torch legacy"
    if head[:1] == b"\x80":
        return read_pickle(data), "pickle"
    raise Refused("it is no pickle, torch file or safetensors")


def _layout(value: object) -> tuple[Callable[[Any, bool, Allowance], Networks], str]:
    if is_tensorflow(value):
        return tensorflow_networks, "StyleGAN2 (TensorFlow)"
    if isinstance(value, dict):
        if any(isinstance(value.get(k), Module) for k in ("G", "D", "G_ema")):
            return official_networks, "stylegan2-ada-pytorch or stylegan3"
        if is_rosinality(value):
            return rosinality_networks, "rosinality"
        keys = ", ".join(shown(k) for k in list(value)[:4])
        raise Refused(f"it holds no StyleGAN2 networks, but {keys or 'nothing'}")
    if isinstance(value, Module):
        raise Refused(f"it holds a single {shown(value.class_name)}, where official files hold G, D and G_ema")
    if isinstance(value, Record):
        raise Refused("it holds a single TensorFlow network, where StyleGAN2's files hold three")
    raise Refused(f"it holds {shown(value)} and no networks")


def _own(path: Path) -> Imported:
    kind = read_metadata(path)["kind"]
    weights = read_generator(path)
    notes = ["nothing to convert: the file is stylert's own"]
    if kind == "training":
        notes.append("taken: G_ema; training goes on from the file itself, with its optimizers")
    return Imported("stylert", weights.config, weights.arrays, tuple(notes), info=weights.info)


def write_imported(path: str | Path, imported: Imported) -> None:
    """Write the averaged generator as stylert's own file, with where it came from in its info. Atomic."""
    info = imported.info or {"imported": {"format": imported.format, "notes": list(imported.notes)}}
    write_generator(path, imported.config, imported.arrays, info=info)


def read_any_generator(path: str | Path) -> GeneratorWeights:
    """The averaged generator of a checkpoint of any known project, ready for export. Errors as `import_checkpoint`."""
    imported = import_checkpoint(path, training=False)
    info = (
        imported.info
        if imported.format == "stylert"
        else {"imported": {"format": imported.format, "notes": list(imported.notes)}}
    )
    return GeneratorWeights(imported.config, imported.arrays, info or {})
