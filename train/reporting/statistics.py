"""Averages the statistics of the steps, and writes them as lines of `stats.jsonl`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylert.core.files.atomic import append_line
from stylert.core.images.grids import make_grid
from stylert.core.machine.host import peak_memory_mib
from stylert.train.reporting.writers import RunWriter
from stylert.train.trainer import PHASES, Trainer

STATS_FILE = "stats.jsonl"
#: Statistics are written after this many steps or seconds, whichever comes first.
STEPS_PER_LINE = 50
SECONDS_PER_LINE = 60.0
#: The phases whose seconds are written, in the order of a line.
TIMED = (*PHASES, "data", "snapshot", "metrics")


class Statistics:
    """Averages the statistics over some steps, and passes lines and pictures on to writers. Only rank 0 writes.

    A line holds:

    - `kimg` and `step`: how far the run is.
    - `sec_per_kimg`: seconds per thousand images since the start of the process.
    - the means of what `Trainer.train_step` returns.
    - `aug_p`: the probability of the augmentation, if there is one.
    - `seconds_<phase>`: seconds since the last line: the phases of a step, `data`, `snapshot` and `metrics`.
    - `peak_memory_mib`: largest memory so far, of the process on a CPU, of PyTorch's tensors on a GPU.
    """

    def __init__(self, trainer: Trainer, out: Path, writers: Sequence[RunWriter]) -> None:
        """Start the clock.

        Args:
            trainer: The trainer, which makes the steps.
            out: Folder of the run.
            writers: Receive each line. They are open.
        """
        self.trainer, self.out, self.writers = trainer, out, writers
        self.values: dict[str, list[float]] = {}
        self.start_time = self.line_time = time.monotonic()
        self.start_nimg = trainer.nimg

    def add(self, statistics: Mapping[str, float]) -> None:
        """Take the statistics of one step, and write a line when it is due."""
        for name, value in statistics.items():
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
        seconds = trainer.timer.take()
        line |= {f"seconds_{phase}": seconds[phase] for phase in TIMED if phase in seconds}
        line["peak_memory_mib"] = _peak_memory_mib(trainer.device)
        self.values.clear()
        self._write(line)
        self.show(line)

    def record_changes(self, changes: Mapping[str, tuple[Any, Any]]) -> None:
        """Write the settings that a resumed run changed: the old and the new value by name."""
        self._write({"kimg": self.trainer.nimg / 1000, "step": self.trainer.step, "changed": dict(changes)})

    def show(self, line: Mapping[str, float]) -> None:
        """Pass a line of statistics, or the metrics of a snapshot, to all writers."""
        values = {name: value for name, value in line.items() if name not in ("kimg", "step")}
        for writer in self.writers:
            writer.scalars(line["kimg"], values)

    def show_picture(self, name: str, images: np.ndarray) -> None:
        """Pass a grid of images, uint8 `[N, R, R, C]`, to all writers."""
        for writer in self.writers:
            writer.picture(self.trainer.nimg / 1000, name, make_grid(images))

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.trainer.processes.is_first:
            append_line(self.out / STATS_FILE, line, within=self.out)


def _peak_memory_mib(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_memory_mib()
