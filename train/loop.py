"""The training loop: steps until the end or a signal, statistics, and snapshots.

Every file is complete or does not exist, also after a kill.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from stylert.core.errors import StylertError
from stylert.core.files.atomic import atomic_file, locked_folder
from stylert.core.images.grids import make_grid, save_grid
from stylert.models.checkpoint import SNAPSHOT_FILE, write_generator
from stylert.train.best_snapshot import Evaluate, keep_if_best
from stylert.train.configuration.resumed_settings import changes
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.data.dataset import ImageDataset
from stylert.train.parallel import Processes
from stylert.train.reporting.statistics import Statistics
from stylert.train.reporting.writers import RunWriter
from stylert.train.sampling import sample_images
from stylert.train.snapshot import read_config, read_snapshot, write_snapshot
from stylert.train.trainer import SINGLE_PROCESS, Trainer

GENERATOR_FILE = "model.safetensors"
GRID_IMAGES = 64


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
    writers: Sequence[RunWriter] = (),
    device: str = "cpu",
    processes: Processes = SINGLE_PROCESS,
    compiled: bool = False,
) -> Path:
    """Train until `cfg.kimg`. SIGTERM and Ctrl-C save a snapshot and stop. A stopped run measures no metrics.

    Files in `out`, written every `snap_kimg` and at the end:

    - `snapshot.safetensors`: the whole state, for resuming.
    - `model.safetensors`: G_ema, for serving.
    - `fakes-<kimg>.png`: a grid of samples. It has the latents of `fakes-init.png`.
    - `snapshot-<kimg>.safetensors`: the last `keep` snapshots.
    - `best.safetensors` and `metrics.jsonl`: the generator with the lowest metric, and all metrics (with `evaluate`).

    `stats.jsonl` gets a line of statistics every 50 steps or every minute, see `reporting.statistics`. Before the first
    step, a new run writes `reals.png`, a grid of real images, and `fakes-init.png`, samples of its first networks. They are
    never overwritten.

    Args:
        cfg: Configuration of the run.
        dataset: The real images.
        out: Folder of the run.
        resume: A snapshot to resume from. Settings of `cfg` that differ from it are recorded in `stats.jsonl` and in
            `facts.changes` of later snapshots.
        start: Changes the networks of a new run, for example by `transfer.transfer`.
        snap_kimg: Thousands of images between snapshots. Below 1, `<kimg>` has three decimals.
        keep: Number of snapshots to keep under their kimg.
        evaluate: Computes metrics of G_ema at every snapshot. The first metric decides which one is best.
        writers: Receive the statistics, the metrics, and the grids of images at every snapshot.
        device: Device of the networks.
        processes: This process among those that train together. Each calls this function; rank 0 writes and reports.
        compiled: Passed to `Trainer`.

    Returns:
        Path of the final generator file.

    Raises:
        TrainingError: A loss is not finite. The last snapshot is kept.
        OutputError: `out` cannot be created, a file in it cannot be written, or another process trains there.
        ProcessLost: Another process of the run has ended.
    """
    out = Path(out)
    trainer = Trainer(cfg, dataset, device, processes, compiled)
    with ExitStack() as stack:
        if processes.is_first:  # it writes for all, so it keeps other runs out
            stack.enter_context(locked_folder(out))
        else:
            writers = ()
        for writer in writers:
            writer.open(out, cfg, resume is not None)
            stack.callback(writer.close)
        statistics = Statistics(trainer, out, writers)
        if resume is not None:
            _resume(trainer, resume, statistics)
        elif start is not None:
            start(trainer)
        if processes.is_first:
            reals = _save_first_grids(trainer, out, is_new=resume is None)
            _show_picture(writers, trainer, "reals", reals)
        stop = _StopRequest()
        saved_nimg = -1

        def snapshot() -> None:
            nonlocal saved_nimg
            if saved_nimg == trainer.nimg:
                return
            saved_nimg = trainer.nimg
            if processes.is_first:
                with trainer.timer.phase("snapshot"):
                    samples = save(trainer, out, snap_kimg)
                    keep_last(trainer, out, keep, snap_kimg)
                    _show_picture(writers, trainer, "fakes", samples)
                if evaluate is not None:
                    with trainer.timer.phase("metrics"):
                        metrics = _evaluate_unless_stopped(evaluate, trainer, stop)
                    if metrics is not None:
                        keep_if_best(out, out / GENERATOR_FILE, trainer.nimg / 1000, metrics)
                        statistics.show({"kimg": trainer.nimg / 1000, **metrics})
            processes.barrier()

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
        return out / GENERATOR_FILE


def _resume(trainer: Trainer, snapshot: str | Path, statistics: Statistics) -> None:
    """Restore a snapshot, and record which settings have changed since."""
    trainer.load_state(*read_snapshot(snapshot, trainer.cfg))
    if changed := changes(read_config(snapshot), trainer.cfg):
        trainer.changes.append({"kimg": trainer.nimg / 1000} | {name: list(pair) for name, pair in changed.items()})
        statistics.record_changes(changed)
    statistics.start_nimg = trainer.nimg


def _evaluate_unless_stopped(evaluate: Evaluate, trainer: Trainer, stop: _StopRequest) -> Mapping[str, float] | None:
    """The metrics of G_ema. None if a signal has come, which also ends the evaluation.

    An evaluation can take minutes, and torchrun kills a process 30 seconds after SIGTERM.
    """
    if stop.requested:
        return None
    try:
        stop.interrupts = True
        metrics = evaluate(trainer.G_ema)
        stop.interrupts = False
    except KeyboardInterrupt:
        if not stop.requested:
            raise
        return None
    finally:
        stop.interrupts = False
    return metrics


def _show_picture(writers: Sequence[RunWriter], trainer: Trainer, name: str, images: np.ndarray) -> None:
    for writer in writers:
        writer.picture(trainer.nimg / 1000, name, make_grid(images))


def save(trainer: Trainer, out: Path, snap_kimg: float = 10.0) -> np.ndarray:
    """Write the snapshot, the generator file and a grid of samples, each atomically.

    Returns:
        The samples, uint8 `[N, R, R, C]`.
    """
    tensors, facts = trainer.state()
    write_snapshot(out / SNAPSHOT_FILE, trainer.cfg, tensors, facts)
    arrays = {k: v.cpu().numpy() for k, v in trainer.G_ema.state_dict().items()}
    write_generator(out / GENERATOR_FILE, trainer.cfg.generator, arrays, info={"kimg": trainer.nimg / 1000})
    samples = sample_images(trainer.G_ema, GRID_IMAGES, labels=trainer.dataset.labels)
    save_grid(samples, out / f"fakes-{kimg_name(trainer.nimg, snap_kimg)}.png")
    return samples


def _save_first_grids(trainer: Trainer, out: Path, is_new: bool) -> np.ndarray:
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
        save_grid(sample_images(trainer.G_ema, GRID_IMAGES, labels=dataset.labels), fakes)
    return images


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


class _StopRequest:
    """Turns SIGTERM and SIGINT into a flag while the loop runs. Outside of the main thread it changes no handlers.

    Attributes:
        requested: Whether a signal has come.
        interrupts: Whether a signal also raises KeyboardInterrupt, to leave a call that takes long.
    """

    requested = False
    interrupts = False

    def __enter__(self) -> None:
        # Python allows signal handlers in the main thread only.
        is_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if is_main else ()
        self.previous = {number: signal.signal(number, self._handle) for number in numbers}

    def _handle(self, *_: object) -> None:
        self.requested = True
        if self.interrupts:
            raise KeyboardInterrupt

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _check_finite(losses: dict[str, float], nimg: int) -> None:
    for name, value in losses.items():
        if not np.isfinite(value):
            raise TrainingError(f"{name} is {value} at {nimg / 1000:.1f} kimg: lower --lr or raise --gamma")
