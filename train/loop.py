"""The training loop: steps until the end or a signal, statistics, and files that are whole or not there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylert.core.errors import OutputError, StylertError, missing_extra
from stylert.core.images import as_uint8, save_grid
from stylert.models.checkpoint import SNAPSHOT_FILE, write_generator
from stylert.models.stylegan2.networks import Generator
from stylert.train.best import Score, keep_if_best
from stylert.train.data.dataset import ImageDataset
from stylert.train.parallel import Processes
from stylert.train.presets import TrainConfig
from stylert.train.snapshot import read_snapshot, write_snapshot
from stylert.train.trainer import ALONE, Trainer

STATS_FILE = "stats.jsonl"
GENERATOR_FILE = "model.safetensors"
#: A line of statistics comes after so many steps or so long a time, whichever is first.
STEPS_PER_LINE = 50
SECONDS_PER_LINE = 60.0


class TrainingError(StylertError):
    """Training cannot go on: the losses are not finite."""


def train(
    cfg: TrainConfig,
    dataset: ImageDataset,
    out: str | Path,
    *,
    resume: str | Path | None = None,
    start: Callable[[Trainer], None] | None = None,
    snap_kimg: float = 10.0,
    keep: int = 0,
    score: Score | None = None,
    tensorboard: bool = False,
    device: str = "cpu",
    processes: Processes = ALONE,
    compiled: bool = False,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train until `cfg.kimg` and return the path of the final generator file.

    `resume` is a snapshot to go on from; `start` may change the networks of a new run (see `transfer.transfer`).
    Writes into `out`: `snapshot.safetensors` (everything, for resuming) and `model.safetensors` (G_ema, for serving)
    every `snap_kimg`, samples `fakes-<kimg>.png`, and `stats.jsonl`; of the snapshots, the last `keep` stay as
    `snapshot-<kimg>.safetensors` too, where `<kimg>` has decimals if `snap_kimg` is below 1. With a `score`, every snapshot's
    G_ema is measured, the values go into `metrics.jsonl`, and the generator with the lowest first value stays as
    `best.safetensors`. SIGTERM and Ctrl-C save, then stop. `report` gets each line of statistics. Of several `processes`, each
    calls this, and the first one writes and reports. `compiled` is passed to the trainer.

    Raises TrainingError when a loss stops being finite; the last snapshot is kept. OutputError when `out` cannot be made.
    """
    out = Path(out)
    board = _tensorboard(out) if tensorboard and processes.first else None
    trainer = Trainer(cfg, dataset, device, processes, compiled)
    if resume is not None:
        trainer.load_state(*read_snapshot(resume, cfg))
    elif start is not None:
        start(trainer)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise OutputError(f"cannot write into {out}: {e.strerror}") from None
    stop = _StopRequest()
    sums: dict[str, list[float]] = {}
    saved = -1

    def snapshot() -> None:
        nonlocal saved
        saved = trainer.nimg
        save(trainer, out, snap_kimg)
        keep_last(trainer, out, keep, snap_kimg)
        if score is not None:
            values = score(trainer.G_ema)
            keep_if_best(out, out / GENERATOR_FILE, trainer.nimg / 1000, values)
            line = {"kimg": trainer.nimg / 1000, **values}
            _show(line, board)
            if report is not None:
                report(line)

    started = last_line = time.monotonic()
    start_nimg = trainer.nimg

    def statistics() -> None:
        nonlocal last_line
        last_line = time.monotonic()
        line = {
            "kimg": trainer.nimg / 1000,
            "step": trainer.step,
            "sec_per_kimg": (last_line - started) / (trainer.nimg - start_nimg) * 1000,
            **{name: float(np.mean(values)) for name, values in sums.items()},
        }
        if cfg.aug != "noaug":
            line["aug_p"] = trainer.aug_p
        sums.clear()
        if processes.first:
            _write_line(out, line, board)
            if report is not None:
                report(line)

    next_snap = (np.floor(trainer.nimg / (snap_kimg * 1000)) + 1) * snap_kimg * 1000
    with stop:
        while trainer.nimg < cfg.kimg * 1000 and not processes.any(stop.requested, trainer.device):
            losses_now = trainer.train_step()
            for name, value in losses_now.items():
                if not np.isfinite(value):
                    raise TrainingError(f"{name} is {value} at {trainer.nimg / 1000:.1f} kimg: lower --lr or raise --gamma")
                sums.setdefault(name, []).append(value)
            if trainer.step % STEPS_PER_LINE == 0 or time.monotonic() - last_line > SECONDS_PER_LINE:
                statistics()
            if trainer.nimg >= next_snap:
                next_snap += snap_kimg * 1000
                if processes.first:
                    snapshot()
        if sums:
            statistics()
        if processes.first and saved != trainer.nimg:
            snapshot()
        processes.wait()
    if board is not None:
        board.close()
    return out / GENERATOR_FILE


def kimg_name(nimg: int, snap_kimg: float) -> str:
    """What files are named by: whole kimg where snapshots lie at least one apart, the very image otherwise."""
    return f"{nimg // 1000:06d}" if snap_kimg >= 1 else f"{nimg // 1000:06d}.{nimg % 1000:03d}"


def save(trainer: Trainer, out: Path, snap_kimg: float = 10.0) -> None:
    """Snapshot, generator file and a grid of samples, each written whole or not at all."""
    tensors, facts = trainer.state()
    write_snapshot(out / SNAPSHOT_FILE, trainer.cfg, tensors, facts)
    arrays = {k: v.cpu().numpy() for k, v in trainer.G_ema.state_dict().items()}
    write_generator(out / GENERATOR_FILE, trainer.cfg.generator, arrays, info={"kimg": trainer.nimg / 1000})
    save_grid(sample(trainer.G_ema, 64, trainer.device), out / f"fakes-{kimg_name(trainer.nimg, snap_kimg)}.png")


def keep_last(trainer: Trainer, out: Path, count: int, snap_kimg: float) -> None:
    """Give the snapshot just saved a second name with its kimg, and remove all but the last `count` of those; 0 keeps none."""
    if count < 1:
        return
    kept = out / f"snapshot-{kimg_name(trainer.nimg, snap_kimg)}.safetensors"
    kept.unlink(missing_ok=True)
    try:
        os.link(out / SNAPSHOT_FILE, kept)  # costs no space until the next snapshot takes the first name
    except OSError:  # a file system without links
        shutil.copyfile(out / SNAPSHOT_FILE, kept)
    named = {p: m for p in out.iterdir() if (m := re.fullmatch(r"snapshot-(\d{6,}(?:\.\d{3})?)\.safetensors", p.name))}
    for path in sorted(named, key=lambda p: float(named[p][1]))[:-count]:
        path.unlink()


def _write_line(out: Path, line: dict[str, Any], board: Any) -> None:
    with open(out / STATS_FILE, "a") as f:
        f.write(json.dumps(line) + "\n")
    _show(line, board)


def _show(line: dict[str, Any], board: Any) -> None:
    if board is not None:
        for name, value in line.items():
            if name not in ("kimg", "step"):
                board.add_scalar(name, value, int(line["kimg"] * 1000))
        board.flush()


def _tensorboard(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise missing_extra("TensorBoard", "tensorboard") from None
    return SummaryWriter(str(out / "tensorboard"))


@torch.no_grad()
def sample(generator: Generator, count: int, device: torch.device | str = "cpu", psi: float = 1.0) -> np.ndarray:
    """Images of seeds 0 to `count`, uint8 `[count, R, R, C]`; labels, if any, cycle through the classes."""
    from stylert.core.seeds import z_from_seeds

    z = torch.from_numpy(z_from_seeds(range(count), generator.cfg.z_dim)).float().to(device)
    c = None
    if generator.cfg.c_dim:
        c = torch.eye(generator.cfg.c_dim, device=device)[torch.arange(count) % generator.cfg.c_dim]
    images = [generator(z[i : i + 16], None if c is None else c[i : i + 16], psi) for i in range(0, count, 16)]
    return as_uint8(torch.cat(images).cpu().numpy())


class _StopRequest:
    """Turns SIGTERM and SIGINT into a flag while the loop runs; only the main thread can, others are left alone."""

    requested = False

    def __enter__(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        self.previous = {s: signal.signal(s, self._handle) for s in (signal.SIGTERM, signal.SIGINT) if main}

    def _handle(self, *_: object) -> None:
        self.requested = True

    def __exit__(self, *_: object) -> None:
        for s, handler in self.previous.items():
            signal.signal(s, handler)
