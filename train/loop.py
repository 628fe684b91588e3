"""The training loop: steps until the end or a signal, statistics, and snapshots.

Every file is complete or does not exist, also after a kill.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import StylertError, missing_extra
from stylert.core.files.atomic import append_line, atomic_file, locked_folder
from stylert.core.images.grids import save_grid
from stylert.models.checkpoint import SNAPSHOT_FILE, write_generator
from stylert.train.best_snapshot import Evaluate, keep_if_best
from stylert.train.data.dataset import ImageDataset
from stylert.train.parallel import Processes
from stylert.train.presets import TrainConfig
from stylert.train.sampling import sample_images
from stylert.train.snapshot import read_snapshot, write_snapshot
from stylert.train.trainer import SINGLE_PROCESS, Trainer

STATS_FILE = "stats.jsonl"
GENERATOR_FILE = "model.safetensors"
GRID_IMAGES = 64
#: Statistics are written after this many steps or seconds, whichever comes first.
STEPS_PER_LINE = 50
SECONDS_PER_LINE = 60.0

#: Receives one line of statistics or metrics, as JSON values by name.
Report = Callable[[dict[str, Any]], None]


class TrainingError(StylertError):
    """Training cannot go on, because a loss is not finite."""


def train(
    cfg: TrainConfig,
    dataset: ImageDataset,
    out: str | Path,
    *,
    resume: str | Path | None = None,
    start: Callable[[Trainer], None] | None = None,
    snap_kimg: float = 10.0,
    keep: int = 0,
    evaluate: Evaluate | None = None,
    tensorboard: bool = False,
    device: str = "cpu",
    processes: Processes = SINGLE_PROCESS,
    compiled: bool = False,
    report: Report | None = None,
) -> Path:
    """Train until `cfg.kimg`. SIGTERM and Ctrl-C save a snapshot and stop.

    Files in `out`, written every `snap_kimg` and at the end:

    - `snapshot.safetensors`: the whole state, for resuming.
    - `model.safetensors`: G_ema, for serving.
    - `fakes-<kimg>.png`: a grid of samples. It has the latents of `fakes-init.png`.
    - `snapshot-<kimg>.safetensors`: the last `keep` snapshots.
    - `best.safetensors` and `metrics.jsonl`: the generator with the lowest metric, and all metrics (with `evaluate`).

    `stats.jsonl` gets a line of statistics every 50 steps or every minute. Before the first step, a new run writes
    `reals.png`, a grid of real images, and `fakes-init.png`, samples of its first networks. They are never overwritten.

    Args:
        cfg: Configuration of the run.
        dataset: The real images.
        out: Folder of the run.
        resume: A snapshot to resume from.
        start: Changes the networks of a new run, for example by `transfer.transfer`.
        snap_kimg: Thousands of images between snapshots. Below 1, `<kimg>` has three decimals.
        keep: Number of snapshots to keep under their kimg.
        evaluate: Computes metrics of G_ema at every snapshot. The first metric decides which one is best.
        tensorboard: Whether to write statistics for TensorBoard as well.
        device: Device of the networks.
        processes: This process among those that train together. Each calls this function; rank 0 writes and reports.
        compiled: Passed to `Trainer`.
        report: Called with each line of statistics, and with the metrics of each snapshot.

    Returns:
        Path of the final generator file.

    Raises:
        TrainingError: A loss is not finite. The last snapshot is kept.
        OutputError: `out` cannot be created, a file in it cannot be written, or another process trains there.
    """
    out = Path(out)
    new_writer = _tensorboard_class() if tensorboard and processes.is_first else None
    trainer = Trainer(cfg, dataset, device, processes, compiled)
    # Rank 0 writes for all, so it keeps other runs out.
    with locked_folder(out) if processes.is_first else nullcontext():
        writer = None if new_writer is None else new_writer(str(out / "tensorboard"))
        if resume is not None:
            trainer.load_state(*read_snapshot(resume, cfg))
        elif start is not None:
            start(trainer)
        if processes.is_first:
            _save_first_grids(trainer, out, is_new=resume is None)
        statistics = _Statistics(trainer, out, writer, report)
        stop = _StopRequest()
        saved_nimg = -1

        def snapshot() -> None:
            nonlocal saved_nimg
            if not processes.is_first or saved_nimg == trainer.nimg:
                return
            saved_nimg = trainer.nimg
            save(trainer, out, snap_kimg)
            keep_last(trainer, out, keep, snap_kimg)
            if evaluate is not None:
                metrics = evaluate(trainer.G_ema)
                keep_if_best(out, out / GENERATOR_FILE, trainer.nimg / 1000, metrics)
                statistics.show({"kimg": trainer.nimg / 1000, **metrics})

        next_snapshot = (np.floor(trainer.nimg / (snap_kimg * 1000)) + 1) * snap_kimg * 1000
        with stop:
            while trainer.nimg < cfg.kimg * 1000 and not processes.any(stop.requested, trainer.device):
                losses = trainer.train_step()
                _check_finite(losses, trainer.nimg)
                statistics.add(losses)
                if trainer.nimg >= next_snapshot:
                    next_snapshot += snap_kimg * 1000
                    snapshot()
            statistics.flush()
            snapshot()
            processes.barrier()
        if writer is not None:
            writer.close()
        return out / GENERATOR_FILE


def save(trainer: Trainer, out: Path, snap_kimg: float = 10.0) -> None:
    """Write the snapshot, the generator file and a grid of samples, each atomically."""
    tensors, facts = trainer.state()
    write_snapshot(out / SNAPSHOT_FILE, trainer.cfg, tensors, facts)
    arrays = {k: v.cpu().numpy() for k, v in trainer.G_ema.state_dict().items()}
    write_generator(out / GENERATOR_FILE, trainer.cfg.generator, arrays, info={"kimg": trainer.nimg / 1000})
    samples = sample_images(trainer.G_ema, GRID_IMAGES, labels=trainer.dataset.labels)
    save_grid(samples, out / f"fakes-{kimg_name(trainer.nimg, snap_kimg)}.png")


def _save_first_grids(trainer: Trainer, out: Path, is_new: bool) -> None:
    """Write a grid of random real images and, for a new run, of samples. Existing files stay."""
    dataset = trainer.dataset
    if not (reals := out / "reals.png").exists():
        order = np.random.default_rng(trainer.cfg.seed).permutation(len(dataset))
        save_grid(dataset.images[order[:GRID_IMAGES]].transpose(0, 2, 3, 1), reals)
    if is_new and not (fakes := out / "fakes-init.png").exists():
        save_grid(sample_images(trainer.G_ema, GRID_IMAGES, labels=dataset.labels), fakes)


def keep_last(trainer: Trainer, out: Path, count: int, snap_kimg: float) -> None:
    """Name the current snapshot by its kimg as well, and delete all but the last `count` of such files.

    With a `count` of 0, nothing is done.
    """
    if count < 1:
        return
    kept = out / f"snapshot-{kimg_name(trainer.nimg, snap_kimg)}.safetensors"
    with atomic_file(kept) as temporary:
        temporary.unlink()
        try:
            os.link(out / SNAPSHOT_FILE, temporary)  # needs no space until the next snapshot replaces the first name
        except OSError:  # the file system has no links
            shutil.copyfile(out / SNAPSHOT_FILE, temporary)
    kimg_of = {}
    for path in out.iterdir():
        match = re.fullmatch(r"snapshot-(\d{6,}(?:\.\d{3})?)\.safetensors", path.name)
        if match is not None:
            kimg_of[path] = float(match[1])
    for path in sorted(kimg_of, key=kimg_of.__getitem__)[:-count]:
        path.unlink()


def kimg_name(nimg: int, snap_kimg: float) -> str:
    """The kimg in file names: `000012`, or `000012.345` where snapshots may be less than one kimg apart."""
    whole = f"{nimg // 1000:06d}"
    return whole if snap_kimg >= 1 else f"{whole}.{nimg % 1000:03d}"


class _Statistics:
    """Averages the losses over some steps, and writes them as a line of `stats.jsonl` (rank 0 only)."""

    def __init__(self, trainer: Trainer, out: Path, writer: Any, report: Report | None) -> None:
        self.trainer, self.out, self.writer, self.report = trainer, out, writer, report
        self.values: dict[str, list[float]] = {}
        self.start_time = self.line_time = time.monotonic()
        self.start_nimg = trainer.nimg

    def add(self, losses: dict[str, float]) -> None:
        """Take the losses of one step, and write a line when it is due."""
        for name, value in losses.items():
            self.values.setdefault(name, []).append(value)
        if self.trainer.step % STEPS_PER_LINE == 0 or time.monotonic() - self.line_time > SECONDS_PER_LINE:
            self.flush()

    def flush(self) -> None:
        """Write a line of the steps since the last line, if there were any."""
        if not self.values:
            return
        trainer = self.trainer
        self.line_time = time.monotonic()
        line = {
            "kimg": trainer.nimg / 1000,
            "step": trainer.step,
            "sec_per_kimg": (self.line_time - self.start_time) / (trainer.nimg - self.start_nimg) * 1000,
            **{name: float(np.mean(values)) for name, values in self.values.items()},
        }
        if trainer.cfg.aug != "noaug":
            line["aug_p"] = trainer.aug_p
        self.values.clear()
        if trainer.processes.is_first:
            append_line(self.out / STATS_FILE, line)
            self.show(line)

    def show(self, line: dict[str, Any]) -> None:
        """Pass a line to TensorBoard and to `report`."""
        if self.writer is not None:
            for name, value in line.items():
                if name not in ("kimg", "step"):
                    self.writer.add_scalar(name, value, int(line["kimg"] * 1000))
            self.writer.flush()
        if self.report is not None:
            self.report(line)


class _StopRequest:
    """Turns SIGTERM and SIGINT into a flag while the loop runs. Outside of the main thread it changes no handlers."""

    requested = False

    def __enter__(self) -> None:
        # Python allows signal handlers in the main thread only.
        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
        self.previous = {number: signal.signal(number, self._handle) for number in numbers}

    def _handle(self, *_: object) -> None:
        self.requested = True

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _check_finite(losses: dict[str, float], nimg: int) -> None:
    for name, value in losses.items():
        if not np.isfinite(value):
            raise TrainingError(f"{name} is {value} at {nimg / 1000:.1f} kimg: lower --lr or raise --gamma")


def _tensorboard_class() -> Callable[[str], Any]:
    """TensorBoard's writer, called with a folder."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise missing_extra("TensorBoard", "tensorboard") from None
    return SummaryWriter
