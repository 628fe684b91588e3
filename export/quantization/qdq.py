"""The nodes that round to 8 bits and back, and constants that are held in 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylert.export.graph import GraphBuilder
from stylert.export.plan import Fp8Scale, Step
from stylert.export.quantization.gptq import FP8, FP8_MAX, INT8_MAX, Narrow, nearest, to_fp8, to_int8

#: From a kernel `[O, I, k, k]` and its scales `[O]` to narrow numbers.
Rounded = Callable[[np.ndarray, np.ndarray, Narrow], np.ndarray]


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

    def int8_weight(self, weight: np.ndarray, name: str, axis: int, levels: int = INT8_MAX, rounded: Rounded = nearest) -> str:
        """A kernel with a symmetric step per index of `axis`, whose greatest value is `levels` steps."""
        return self._weight(weight, name, axis, levels, rounded, to_int8)

    def fp8_weight(self, weight: np.ndarray, name: str, axis: int, rounded: Rounded = nearest) -> str:
        """A kernel in E4M3 with a scale per index of `axis`, whose greatest value is E4M3's."""
        return self._weight(weight, name, axis, FP8_MAX, rounded, to_fp8)

    def _weight(self, weight: np.ndarray, name: str, axis: int, top: float, rounded: Rounded, narrow: Narrow) -> str:
        by_channel = np.moveaxis(weight, axis, 0)
        scale = np.maximum(np.abs(by_channel).max((1, 2, 3)) / top, 1e-12).astype(self.dtype)
        values = rounded(by_channel, scale, narrow)
        inputs = [
            self.g.weight(f"{name}_q", np.moveaxis(values, 0, axis)),
            self.g.weight(f"{name}_scale", scale),
            self.g.weight(f"{name}_zero", np.zeros(len(scale), values.dtype)),
        ]
        return self.g.node("DequantizeLinear", inputs, name, axis=axis)

    def _step(self, step: Step, name: str) -> list[str]:
        return [self._scale(step.scale, name), self._zero(step)]

    def _zero(self, step: Step) -> str:
        return self.g.constant(step.zero_point, np.int8 if step.symmetric else np.uint8)

    def _scale(self, scale: float, name: str) -> str:
        return self.g.weight(f"{name}_scale", np.array(scale).astype(self.dtype))
