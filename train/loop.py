"""The training loop: steps until the end or a signal, statistics, and snapshots."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stylert.core.errors import InputError, StylertError, as_path, shown
from stylert.core.files.locks import locked_folder
from stylert.models.network_config import is_finite
from stylert.train.configuration.resumed_settings import changes
from stylert.train.configuration.train_config import MAX_COUNT, MAX_KIMG, TrainConfig
from stylert.train.data.dataset import ImageDataset
from stylert.train.parallel import Processes, local_device
from stylert.train.reporting.statistics import Statistics
from stylert.train.reporting.writers import RunWriter
from stylert.train.run_cost import check_memory, named_memory_errors
from stylert.train.snapshots.best_snapshot import Evaluate, keep_if_best
from stylert.train.snapshots.run_folder import GENERATOR_FILE, check_links, save, save_first_grids
from stylert.train.snapshots.snapshot_file import read_config, read_snapshot
from stylert.train.snapshots.trainer_state import restore_state
from stylert.train.stop_request import StopRequest
from stylert.train.trainer import SINGLE_PROCESS, Trainer

#: Thousands of images between two snapshots, at least: one image.
MIN_SNAP_KIMG = 0.001


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
    - `snapshot-<kimg>.safetensors`: the last `keep` snapshots. Files of such names that this run did not write stay.
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
        InputError: An argument is of another type, `snap_kimg` or `keep` is out of range, there is no such device, or the processes
            cannot share the batch.
        OutOfMemory: The device has not the memory for a step. The last snapshot is kept.
        DataError: The dataset does not fit the networks.
        CheckpointError: The snapshot is damaged, or is of other networks.
        TrainingError: A loss is not finite. The last snapshot is kept.
        OutputError: `out` cannot be created, a file in it cannot be written or is a link, or another process trains there.
        ProcessLost: Another process of the run has ended.
    """
    _check_types(cfg, dataset, processes, {"start": start, "evaluate": evaluate}, compiled)
    check_saving(snap_kimg, keep)
    _check_writers(writers)
    out, device = as_path(out, "folder of a run"), local_device(device)
    check_memory(cfg, processes.world_size, device)
    trainer = Trainer(cfg, dataset, device, processes, compiled)
    with ExitStack() as stack:
        if processes.is_first:  # it writes for all, so it keeps other runs out
            stack.enter_context(locked_folder(out))
            check_links(out)
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
            statistics.show_picture("reals", save_first_grids(trainer, out, is_new=resume is None))
        stop = StopRequest()
        snapshots = _Snapshots(trainer, out, snap_kimg, keep, evaluate, statistics, stop)
        with stop, named_memory_errors(cfg, device):
            while trainer.nimg < cfg.kimg * 1000 and not processes.any(stop.requested, trainer.device):
                losses = trainer.train_step()
                _check_finite(losses, trainer.nimg)
                statistics.add(losses)
                if snapshots.is_due():
                    snapshots.take()
            statistics.flush()
            snapshots.take()
        return out / GENERATOR_FILE


def _check_types(cfg: object, dataset: object, processes: object, functions: Mapping[str, object], compiled: object) -> None:
    """Raise InputError for arguments of `train` of other types, before a folder is made."""
    for name, value, kind in (
        ("cfg", cfg, TrainConfig),
        ("dataset", dataset, ImageDataset),
        ("processes", processes, Processes),
        ("compiled", compiled, bool),
    ):
        if not isinstance(value, kind):
            raise InputError(f"{name} must be a {kind.__name__}, not {shown(value)}")
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise InputError(f"{name} must be a function, not {shown(function)}")


def _check_writers(writers: object) -> None:
    if not isinstance(writers, list | tuple):
        raise InputError(f"writers must be a list, not {shown(writers)}")
    for writer in writers:
        if not isinstance(writer, RunWriter):
            raise InputError(f"a writer of a run is a RunWriter, not {shown(writer)}")


def check_saving(snap_kimg: float, keep: int) -> None:
    """Check how often `train` saves, and how many snapshots it keeps.

    Raises:
        InputError: A value is no number, or out of range.
    """
    if not is_finite(snap_kimg) or not MIN_SNAP_KIMG <= snap_kimg <= MAX_KIMG:
        limits = f"{MIN_SNAP_KIMG:g} to {MAX_KIMG:.10g}"
        raise InputError(f"the interval of snapshots must lie in {limits} kimg, not {shown(snap_kimg)}")
    if not isinstance(keep, int) or isinstance(keep, bool) or not 0 <= keep <= MAX_COUNT:
        raise InputError(f"the number of snapshots to keep must lie in 0 to {MAX_COUNT}, not {shown(keep)}")


@dataclass
class _Snapshots:
    """Takes the snapshots of a run, and measures them. Each process calls it, and rank 0 writes."""

    trainer: Trainer
    out: Path
    snap_kimg: float
    keep: int
    evaluate: Evaluate | None
    statistics: Statistics
    stop: StopRequest
    taken_nimg: int = -1

    def __post_init__(self) -> None:
        interval = self.snap_kimg * 1000
        self.next_nimg = (math.floor(self.trainer.nimg / interval) + 1) * interval

    def is_due(self) -> bool:
        """Whether the step that was just made ends an interval."""
        if self.trainer.nimg < self.next_nimg:
            return False
        self.next_nimg += self.snap_kimg * 1000
        return True

    def take(self) -> None:
        """Save and measure the networks, unless they are those of the last snapshot."""
        trainer, out = self.trainer, self.out
        if self.taken_nimg == trainer.nimg:
            return
        self.taken_nimg = trainer.nimg
        if trainer.processes.is_first:
            with trainer.timer.phase("snapshot"):
                samples = save(trainer, out, self.snap_kimg, self.keep)
                self.statistics.show_picture("fakes", samples)
            if self.evaluate is not None:
                with trainer.timer.phase("metrics"):
                    metrics = self._measure(self.evaluate)
                if metrics is not None:
                    keep_if_best(out, out / GENERATOR_FILE, trainer.nimg / 1000, metrics)
                    self.statistics.show({"kimg": trainer.nimg / 1000, **metrics})
        trainer.processes.barrier()

    def _measure(self, evaluate: Evaluate) -> Mapping[str, float] | None:
        """The metrics of G_ema. None if a signal has come, which also ends the evaluation.

        An evaluation can take minutes, and torchrun kills a process 30 seconds after SIGTERM.
        """
        stop = self.stop
        if stop.requested:
            return None
        try:
            stop.interrupts = True
            metrics = evaluate(self.trainer.G_ema)
            stop.interrupts = False
        except KeyboardInterrupt:
            if not stop.requested:
                raise
            return None
        finally:
            stop.interrupts = False
        return _checked_metrics(metrics)


def _resume(trainer: Trainer, snapshot: str | Path, statistics: Statistics) -> None:
    """Restore a snapshot, and record which settings have changed since."""
    restore_state(trainer, *read_snapshot(snapshot, trainer.cfg))
    if changed := changes(read_config(snapshot), trainer.cfg):
        trainer.changes.append({"kimg": trainer.nimg / 1000} | {name: list(pair) for name, pair in changed.items()})
        statistics.record_changes(changed)
    statistics.start_nimg = trainer.nimg


def _checked_metrics(metrics: object) -> dict[str, float]:
    """The metrics that a user's `evaluate` returned, as numbers of Python. Raises InputError for anything else."""
    if not isinstance(metrics, Mapping) or not metrics:
        raise InputError(f"evaluate must return numbers by name, not {shown(metrics)}")
    for name, value in metrics.items():
        if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise InputError(f"evaluate must return numbers by name, not {shown(name)}: {shown(value)}")
    return {name: float(value) for name, value in metrics.items()}


def _check_finite(losses: dict[str, float], nimg: int) -> None:
    for name, value in losses.items():
        if not np.isfinite(value):
            raise TrainingError(f"{name} is {value} at {nimg / 1000:.1f} kimg: lower --lr or raise --gamma")
