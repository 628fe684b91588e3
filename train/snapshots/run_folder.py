"""The files of a run in its folder. Each is complete or does not exist, also after a kill."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, CheckpointError, OutputError, SigningError
from stylert.core.files.atomic import atomic_file, check_no_links
from stylert.core.files.inputs import open_file
from stylert.core.files.json_documents import read_document
from stylert.core.images.channels import viewable
from stylert.core.images.grids import as_uint8, save_grid
from stylert.models.checkpoint import SNAPSHOT_FILE, read_metadata, write_generator
from stylert.train.reporting.statistics import STATS_FILE
from stylert.train.reporting.weights_and_biases import RUN_FILE, read_run
from stylert.train.sampling import sample_images
from stylert.train.snapshots.best_snapshot import BEST_FILE, MAX_LINES_BYTES, METRICS_FILE
from stylert.train.snapshots.snapshot_file import write_snapshot
from stylert.train.snapshots.trainer_state import KEPT_NAME, trainer_state
from stylert.train.trainer import Trainer

GENERATOR_FILE = "model.safetensors"
GRID_IMAGES = 64
#: Bytes of a line of `stats.jsonl`, at most. It has about 1 kB.
MAX_LINE_BYTES = 2**16
#: The files that a run replaces or continues, beside those with a kimg in their name.
OWN_FILES = (SNAPSHOT_FILE, GENERATOR_FILE, BEST_FILE, METRICS_FILE, STATS_FILE, RUN_FILE)
FAKES_NAME = re.compile(r"fakes-\d{6,}(?:\.\d{3})?\.png")
#: Files and folders that a run makes once, and later leaves or fills.
MADE_ONCE = ("reals.png", "fakes-init.png", "tensorboard", "wandb")


def check_new_run(out: Path) -> None:
    """Check that a new run in this folder would replace or continue no file, but for those of a run without a snapshot.

    A run that was killed before its first snapshot leaves nothing to resume. A new run then takes its folder, and appends to its
    `stats.jsonl`.

    Raises:
        OutputError: The folder already holds a run, or a file of such a name, or it cannot be read.
    """
    if os.path.lexists(out / SNAPSHOT_FILE):
        raise OutputError(f"{out} already holds a run: add --resume to stylert train, or choose another folder")
    names = [name for name in _names(out) if is_own_name(name)]
    if names and not _is_left_by_a_kill(out, names):  # of a user, or of an older run whose snapshot is gone
        raise OutputError(f"{out} already holds {names[0]}: choose another folder")


def _is_left_by_a_kill(out: Path, names: list[str]) -> bool:
    """Whether a run made these files in the time before its first snapshot: statistics, and its number at wandb."""
    readers = {STATS_FILE: _is_of_statistics, RUN_FILE: lambda path: read_run(path) is not None}
    return all(name in readers and not (out / name).is_symlink() and readers[name](out / name) for name in names)


def _is_of_statistics(path: Path) -> bool:
    """Whether the first line of a file is one of `Statistics`. A kill may also leave an empty file."""
    try:
        with open_file(path, OutputError, MAX_LINES_BYTES) as file:
            line = file.readline(MAX_LINE_BYTES)
        return not line or {"kimg", "step"} <= read_document(line, dict[str, Any], STATS_FILE, OutputError).keys()
    except OutputError:
        return False


def check_links(out: Path) -> None:
    """Check, before the first step, that no file of a run is a link. A folder of others could lead anywhere by it.

    Raises:
        OutputError: A file of the run is a link, or the folder cannot be read.
    """
    for name in _names(out):
        if is_own_name(name) or name in MADE_ONCE:
            check_no_links(out / name, out)


def is_own_name(name: str) -> bool:
    """Whether a run replaces or continues a file of this name in its folder."""
    return name in OWN_FILES or any(pattern.fullmatch(name) for pattern in (KEPT_NAME, FAKES_NAME))


def save(trainer: Trainer, out: Path, snap_kimg: float = 10.0, keep: int = 0) -> np.ndarray:
    """Write the snapshot, the generator file and a grid of samples, each atomically.

    With `keep`, the snapshot has a second name, by its kimg, and only the last `keep` of these stay. Files that this run did not
    write are neither counted, nor deleted, nor replaced, whatever their name.

    Args:
        trainer: The trainer. Its list `kept` is brought up to date.
        out: Folder of the run.
        snap_kimg: Thousands of images between snapshots. Below 1, names have decimals.
        keep: Number of numbered snapshots. With 0, none is written and none deleted.

    Returns:
        The samples as a grid shows them, uint8 `[N, H, W, C]`.

    Raises:
        OutputError: A file cannot be written, or is a link.
    """
    kept = _name_to_keep(trainer, out, snap_kimg) if keep else None
    dropped: list[str] = []
    if kept is not None:
        own = [name for name in trainer.kept if name != kept and _is_own(trainer, out / name)]
        own.sort(key=trainer.kept.__getitem__)
        number = max(len(own) - keep + 1, 0)
        dropped = own[:number]
        trainer.kept = {name: trainer.kept[name] for name in own[number:]} | {kept: trainer.nimg}
    tensors, facts = trainer_state(trainer)  # with the list, so that a resumed run knows its own files
    write_snapshot(out / SNAPSHOT_FILE, trainer.cfg, tensors, facts, within=out)
    if kept is not None:
        _keep(out, out / kept, dropped)
    arrays = {k: v.cpu().numpy() for k, v in trainer.G_ema.state_dict().items()}
    write_generator(out / GENERATOR_FILE, trainer.cfg.generator, arrays, info={"kimg": trainer.nimg / 1000}, within=out)
    samples = _samples(trainer)
    _save_fakes(samples, out, f"fakes-{kimg_name(trainer.nimg, snap_kimg)}.png")
    return samples


def save_first_grids(trainer: Trainer, out: Path, is_new: bool) -> np.ndarray:
    """Write a grid of random real images and, for a new run, of samples. Existing files stay.

    Returns:
        The real images as a grid shows them, uint8 `[N, H, W, C]`.
    """
    dataset = trainer.dataset
    order = np.random.default_rng(trainer.cfg.seed).permutation(len(dataset))
    chosen = dataset.images[order[:GRID_IMAGES]]
    pixels = chosen.transpose(0, 2, 3, 1) if chosen.dtype == np.uint8 else as_uint8(chosen)
    images = viewable(pixels, trainer.cfg.generator.image_channels is not None)
    if not os.path.lexists(reals := out / "reals.png"):
        save_grid(images, reals, within=out)
    if is_new and not os.path.lexists(out / "fakes-init.png"):
        _save_fakes(_samples(trainer), out, "fakes-init.png")
    return images


def _keep(out: Path, kept: Path, dropped: list[str]) -> None:
    """Give the snapshot the name `kept` as well, and delete the `dropped` ones."""
    with atomic_file(kept, within=out, by_library=True) as temporary:
        try:
            os.link(out / SNAPSHOT_FILE, temporary)  # needs no space until the next snapshot replaces the first name
        except OSError:  # the file system has no links
            shutil.copyfile(out / SNAPSHOT_FILE, temporary)
    for name in dropped:
        (out / name).unlink(missing_ok=True)


def _name_to_keep(trainer: Trainer, out: Path, snap_kimg: float) -> str | None:
    """The name of the current snapshot by its kimg. None if files that this run did not write have all such names."""
    for interval in (snap_kimg, 0.0):  # with decimals if the other name is taken
        name = f"snapshot-{kimg_name(trainer.nimg, interval)}.safetensors"
        if not os.path.lexists(out / name) or _is_own(trainer, out / name):
            return name
    return None


def _is_own(trainer: Trainer, path: Path) -> bool:
    """Whether this run wrote the numbered snapshot at `path`: it is listed, and holds the image that the list says."""
    if path.name not in trainer.kept or path.is_symlink():
        return False
    try:
        facts = read_metadata(path).get("facts", {})
    except CheckpointError:
        return False
    return facts.get("nimg") == trainer.kept[path.name]


def kimg_name(nimg: int, snap_kimg: float) -> str:
    """The kimg in file names: `000012`, or `000012.345` where snapshots may be less than one kimg apart."""
    whole = f"{nimg // 1000:06d}"
    return whole if snap_kimg >= 1 else f"{whole}.{nimg % 1000:03d}"


def _names(folder: Path) -> list[str]:
    """The names in a folder, sorted. None if it does not exist."""
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as e:
        raise OutputError(f"cannot write into {folder}: {getattr(e, 'strerror', None) or e}") from None


def _samples(trainer: Trainer) -> np.ndarray:
    """Samples as a grid shows them: a channel that is no color becomes a grey tile."""
    images = sample_images(trainer.G_ema, GRID_IMAGES, labels=trainer.dataset.labels)
    return viewable(images, trainer.cfg.generator.image_channels is not None)


def _save_fakes(samples: np.ndarray, out: Path, name: str) -> None:
    """Write a grid of samples, signed if this user signs. A run goes on without signatures where none can be made."""
    try:
        save_grid(samples, out / name, generated=True, within=out)
    except (SigningError, BackendError):  # the certificate has expired, or the library is gone
        save_grid(samples, out / name, within=out)
