"""The files of a run in its folder. Each is complete or does not exist, also after a kill."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np

from stylert.core.errors import BackendError, SigningError
from stylert.core.files.atomic import atomic_file
from stylert.core.images.grids import save_grid
from stylert.models.checkpoint import SNAPSHOT_FILE, write_generator
from stylert.train.sampling import sample_images
from stylert.train.snapshots.snapshot_file import write_snapshot
from stylert.train.snapshots.trainer_state import trainer_state
from stylert.train.trainer import Trainer

GENERATOR_FILE = "model.safetensors"
GRID_IMAGES = 64


def save(trainer: Trainer, out: Path, snap_kimg: float = 10.0) -> np.ndarray:
    """Write the snapshot, the generator file and a grid of samples, each atomically.

    Returns:
        The samples, uint8 `[N, R, R, C]`.
    """
    tensors, facts = trainer_state(trainer)
    write_snapshot(out / SNAPSHOT_FILE, trainer.cfg, tensors, facts)
    arrays = {k: v.cpu().numpy() for k, v in trainer.G_ema.state_dict().items()}
    write_generator(out / GENERATOR_FILE, trainer.cfg.generator, arrays, info={"kimg": trainer.nimg / 1000})
    samples = sample_images(trainer.G_ema, GRID_IMAGES, labels=trainer.dataset.labels)
    _save_fakes(samples, out / f"fakes-{kimg_name(trainer.nimg, snap_kimg)}.png")
    return samples


def save_first_grids(trainer: Trainer, out: Path, is_new: bool) -> np.ndarray:
    """Write a grid of random real images and, for a new run, of samples. Existing files stay.

    Returns:
        The real images, uint8 `[N, R, R, C]`.
    """
    dataset = trainer.dataset
    order = np.random.default_rng(trainer.cfg.seed).permutation(len(dataset))
    images = dataset.images[order[:GRID_IMAGES]].transpose(0, 2, 3, 1)
    if not (reals := out / "reals.png").exists():
        save_grid(images, reals)
    if is_new and not (fakes := out / "fakes-init.png").exists():
        _save_fakes(sample_images(trainer.G_ema, GRID_IMAGES, labels=dataset.labels), fakes)
    return images


def keep_last(trainer: Trainer, out: Path, count: int, snap_kimg: float) -> None:
    """Name the current snapshot by its kimg as well, and delete all but the last `count` of such files.

    With a `count` of 0, nothing is done.
    """
    if count < 1:
        return
    kept = out / f"snapshot-{kimg_name(trainer.nimg, snap_kimg)}.safetensors"
    with atomic_file(kept, by_library=True) as temporary:
        try:
            os.link(out / SNAPSHOT_FILE, temporary)  # needs no space until the next snapshot replaces the first name
        except OSError:  # the file system has no links
            shutil.copyfile(out / SNAPSHOT_FILE, temporary)
    for path in numbered_snapshots(out)[:-count]:
        path.unlink()


def numbered_snapshots(out: Path) -> list[Path]:
    """The files of `keep_last` in a folder, by their kimg."""
    kimg_of = {}
    for path in out.iterdir():
        match = re.fullmatch(r"snapshot-(\d{6,}(?:\.\d{3})?)\.safetensors", path.name)
        if match is not None:
            kimg_of[path] = float(match[1])
    return sorted(kimg_of, key=kimg_of.__getitem__)


def kimg_name(nimg: int, snap_kimg: float) -> str:
    """The kimg in file names: `000012`, or `000012.345` where snapshots may be less than one kimg apart."""
    whole = f"{nimg // 1000:06d}"
    return whole if snap_kimg >= 1 else f"{whole}.{nimg % 1000:03d}"


def _save_fakes(samples: np.ndarray, path: Path) -> None:
    """Write a grid of samples, signed if this user signs. A run goes on without signatures where none can be made."""
    try:
        save_grid(samples, path, generated=True)
    except (SigningError, BackendError):  # the certificate has expired, or the library is gone
        save_grid(samples, path)
