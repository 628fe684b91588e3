"""Writes statistics and pictures for TensorBoard, into the folder `tensorboard` of the run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import missing_extra
from stylert.train.configuration.train_config import TrainConfig


class TensorBoardWriter:
    """A `RunWriter`. The step of each value is the number of images."""

    def __init__(self) -> None:
        """Import TensorBoard. Raises BackendError where it is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing_extra("TensorBoard", "tensorboard") from None
        self._new_writer: Any = SummaryWriter

    def open(self, out: Path, cfg: TrainConfig, resumed: bool) -> None:
        """See `RunWriter`."""
        self._writer = self._new_writer(str(out / "tensorboard"))

    def scalars(self, kimg: float, values: Mapping[str, float]) -> None:
        """See `RunWriter`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, _images(kimg))
        self._writer.flush()

    def picture(self, kimg: float, name: str, image: np.ndarray) -> None:
        """See `RunWriter`."""
        self._writer.add_image(name, image, _images(kimg), dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """See `RunWriter`."""
        self._writer.close()


def _images(kimg: float) -> int:
    return round(kimg * 1000)
