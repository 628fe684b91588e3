"""The nodes that round to 8 bits and back, and constants that are held in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from stylert.export.graph import GraphBuilder
from stylert.export.plan import FP8_MAX, Fp8Scale, Step

#: E4M3 without infinities, one NaN.
FP8 = ml_dtypes.float8_e4m3fn


@dataclass(frozen=True)
class Factor:
    """A tensor `[N, channels]` that multiplies one of `[N, channels, size, size]`."""

    name: str
    channels: int
    size: int


class EightBit:
    """Writes into `g`. `dtype` is that of the activations, and so of every scale."""

    def __init__(self, g: GraphBuilder, dtype: type[np.floating[Any]]) -> None:
        self.g, self.dtype = g, dtype

    def quantize(self, x: str, step: Step, name: str, factor: Factor | None = None) -> str:
        """`x`, or its product with a factor, in 8 bits: the steps of a channel are over its factor, and no pass multiplies."""
        if factor is None:
            return self.g.node("QuantizeLinear", [x, *self._step(step, name)], f"{name}_q")
        steps = self.g.node("Div", [self._scale(step.scale, name), factor.name], f"{name}_q_steps")
        return self._by_plane("QuantizeLinear", x, steps, step, f"{name}_q", factor)

    def dequantize(self, x: str, step: Step, name: str, factor: Factor | None = None) -> str:
        """`x` as it was before, or its product with a factor."""
        if factor is None:
            return self.g.node("DequantizeLinear", [x, *self._step(step, name)], f"{name}_dq")
        steps = self.g.node("Mul", [self._scale(step.scale, name), factor.name], f"{name}_dq_steps")
        return self._by_plane("DequantizeLinear", x, steps, step, f"{name}_dq", factor)

    def _by_plane(self, op: str, x: str, steps: str, step: Step, name: str, factor: Factor) -> str:
        """With steps `[N, C]`: the operators take steps along one axis, so samples and channels become one."""
        g = self.g
        steps = g.node("Reshape", [steps, g.ints(-1)], f"{name}_steps_of_planes")
        zeros = g.node("Expand", [self._zero(step), g.node("Shape", [steps], f"{name}_count")], f"{name}_zeros_of_planes")
        planes = g.node("Reshape", [x, g.ints(-1, factor.size**2)], f"{name}_planes")
        planes = g.node(op, [planes, steps, zeros], f"{name}_of_planes", axis=0)
        return g.node("Reshape", [planes, g.ints(-1, factor.channels, factor.size, factor.size)], name)

    def as_fp8(self, x: str, scale: Fp8Scale, name: str) -> str:
        """`x` rounded to E4M3 and back."""
        steps = [self._scale(scale.input, name), self.g.constant(0, FP8)]
        return self.g.node("DequantizeLinear", [self.g.node("QuantizeLinear", [x, *steps], f"{name}_q"), *steps], f"{name}_dq")

    def int8_weight(self, weight: np.ndarray, name: str, axis: int, levels: int = 127) -> str:
        """A kernel with a symmetric step per index of `axis`, whose greatest value is `levels` steps."""
        by_channel, scale = self._per_channel(weight, axis, levels)
        values = np.clip(np.rint(by_channel / scale[:, None, None, None].astype(np.float64)), -127, 127).astype(np.int8)
        return self._held(values, scale, name, axis)

    def fp8_weight(self, weight: np.ndarray, name: str, axis: int) -> str:
        """A kernel in E4M3 with a scale per index of `axis`, whose greatest value is E4M3's."""
        by_channel, scale = self._per_channel(weight, axis, FP8_MAX)
        values = np.clip(by_channel / scale[:, None, None, None].astype(np.float64), -FP8_MAX, FP8_MAX).astype(FP8)
        return self._held(values, scale, name, axis)

    def _per_channel(self, weight: np.ndarray, axis: int, top: float) -> tuple[np.ndarray, np.ndarray]:
        by_channel = np.moveaxis(weight, axis, 0)
        return by_channel, np.maximum(np.abs(by_channel).max((1, 2, 3)) / top, 1e-12).astype(self.dtype)

    def _held(self, by_channel: np.ndarray, scale: np.ndarray, name: str, axis: int) -> str:
        inputs = [
            self.g.weight(f"{name}_q", np.moveaxis(by_channel, 0, axis)),
            self.g.weight(f"{name}_scale", scale),
            self.g.weight(f"{name}_zero", np.zeros(len(scale), by_channel.dtype)),
        ]
        return self.g.node("DequantizeLinear", inputs, name, axis=axis)

    def _step(self, step: Step, name: str) -> list[str]:
        return [self._scale(step.scale, name), self._zero(step)]

    def _zero(self, step: Step) -> str:
        return self.g.constant(step.zero_point, np.int8 if step.symmetric else np.uint8)

    def _scale(self, scale: float, name: str) -> str:
        return self.g.weight(f"{name}_scale", np.array(scale).astype(self.dtype))
