"""The interface through which a run passes its statistics and pictures on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from stylert.train.configuration.train_config import TrainConfig


@runtime_checkable
class RunWriter(Protocol):
    """Receives the statistics and pictures of a run. Rank 0 calls it, the other processes never do.

    `train` calls `open` first and `close` last, also after an error.
    """

    def open(self, out: Path, cfg: TrainConfig, resumed: bool) -> None:
        """Prepare for a run.

        Args:
            out: Folder of the run. This process holds its lock.
            cfg: Configuration of the run.
            resumed: Whether the run goes on from a snapshot.
        """

    def scalars(self, kimg: float, values: Mapping[str, float]) -> None:
        """Take a line of `stats.jsonl`, or the metrics of a snapshot.

        Args:
            kimg: Thousands of images that the discriminator has seen.
            values: The values by name.
        """

    def picture(self, kimg: float, name: str, image: np.ndarray) -> None:
        """Take a grid of images.

        Args:
            kimg: As in `scalars`.
            name: `fakes` or `reals`.
            image: uint8 `[H, W, C]`.
        """

    def close(self) -> None:
        """Write what is still kept back."""
