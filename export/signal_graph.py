"""A graph whose signals have one type, float32 or float16, while latents, styles and statistics stay in float32."""

from __future__ import annotations

from typing import Any

import numpy as np

from stylert.core.errors import CheckpointError
from stylert.export.graph import GraphBuilder


class SignalGraph(GraphBuilder):
    """See the module.

    Attributes:
        signal_type: The type of the signals.
    """

    signal_type: np.dtype[Any]

    def float32(self, name: str, value: np.ndarray) -> str:
        """An initializer for latents, styles and statistics."""
        return self.weight(name, value.astype(np.float32))

    def signal(self, name: str, value: np.ndarray) -> str:
        """An initializer in the type of the signals. Raises CheckpointError where the type cannot hold it."""
        largest, limit = float(np.abs(value).max(initial=0)), float(np.finfo(self.signal_type).max)
        if not largest <= limit:
            raise CheckpointError(f"{self.signal_type} cannot hold {name} of this network: {largest:,.0f} exceeds {limit:,.0f}")
        return self.weight(name, value.astype(self.signal_type))

    def as_signal(self, tensor: str) -> str:
        """A float32 tensor in the type of the signals."""
        return self.cast(tensor, f"{tensor}_float16", np.float16) if self.signal_type == np.float16 else tensor

    def as_float32(self, tensor: str) -> str:
        """A signal in float32."""
        return self.cast(tensor, f"{tensor}_float32", np.float32) if self.signal_type == np.float16 else tensor
