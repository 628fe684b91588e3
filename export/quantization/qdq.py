"""The nodes that quantise to 8 bits and dequantise again (Q/DQ), and weights that are stored in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stylert.core.machine.byte_products import PAIR_LIMIT, limit_pairs, pair_sums
from stylert.export.graph import GraphBuilder
from stylert.export.network_plan import QuantParams
from stylert.export.quantization.number_formats import (
    FP8,
    FP8_MAX,
    INT8_MAX,
    RoundKernel,
    RoundToFormat,
    round_to_nearest,
    to_fp8,
    to_int8,
)


@dataclass(frozen=True)
class ChannelFactor:
    """A tensor `[N, channels]` that multiplies an image tensor `[N, channels, *size]`."""

    tensor: str
    channels: int
    size: tuple[int, int]


class QdqBuilder:
    """Adds Q/DQ nodes to a graph. `dtype` is the type of the activations and of all scales."""

    def __init__(self, g: GraphBuilder, dtype: np.dtype[np.floating]) -> None:
        self.g, self.dtype = g, dtype

    def quantize(self, x: str, params: QuantParams, name: str, factor: ChannelFactor | None = None) -> str:
        """Add the quantisation of `x`, or of `x` times a factor.

        A factor needs no pass of its own: the scale of each channel is divided by it.
        """
        if factor is None:
            return self.g.node("QuantizeLinear", [x, *self._params(params, name)], f"{name}_q")
        scales = self.g.node("Div", [self._scale(params.scale, name), factor.tensor], f"{name}_q_steps")
        return self._by_plane("QuantizeLinear", x, scales, params, f"{name}_q", factor)

    def dequantize(self, x: str, params: QuantParams, name: str, factor: ChannelFactor | None = None) -> str:
        """Add the dequantisation of `x`, times the factor if one is given."""
        if factor is None:
            return self.g.node("DequantizeLinear", [x, *self._params(params, name)], f"{name}_dq")
        scales = self.g.node("Mul", [self._scale(params.scale, name), factor.tensor], f"{name}_dq_steps")
        return self._by_plane("DequantizeLinear", x, scales, params, f"{name}_dq", factor)

    def _by_plane(self, op: str, x: str, scales: str, params: QuantParams, name: str, factor: ChannelFactor) -> str:
        """Apply `op` with scales `[N, C]`. The operators take scales along one axis, so x becomes `[N C, H W]`."""
        g = self.g
        scales = g.node("Reshape", [scales, g.ints(-1)], f"{name}_steps_of_planes")
        count = g.node("Shape", [scales], f"{name}_count")
        zero_points = g.node("Expand", [self._zero_point(params), count], f"{name}_zeros_of_planes")
        planes = g.node("Reshape", [x, g.ints(-1, factor.size[0] * factor.size[1])], f"{name}_planes")
        planes = g.node(op, [planes, scales, zero_points], f"{name}_of_planes", axis=0)
        return g.node("Reshape", [planes, g.ints(-1, factor.channels, *factor.size)], name)

    def fp8(self, x: str, scale: float, name: str) -> str:
        """`x` divided by `scale`, rounded to E4M3, and back."""
        params = [self._scale(scale, name), self.g.constant(0, FP8)]
        quantized = self.g.node("QuantizeLinear", [x, *params], f"{name}_q")
        return self.g.node("DequantizeLinear", [quantized, *params], f"{name}_dq")

    def int8_weight(
        self, weight: np.ndarray, name: str, axis: int, peak: int = INT8_MAX, round_kernel: RoundKernel = round_to_nearest
    ) -> str:
        """A kernel stored as int8, with a scale per index of `axis`. The greatest magnitude of each becomes `peak`."""
        return self._weight(weight, name, axis, peak, round_kernel, to_int8)

    def int8_weight_of_limited_pairs(self, weight: np.ndarray, name: str, axis: int, round_kernel: RoundKernel) -> str:
        """A kernel stored as int8, in which no two adjacent input channels have a sum above `PAIR_LIMIT`."""
        by_channel = np.moveaxis(weight, axis, 0)
        greatest, sums = np.abs(by_channel).max((1, 2, 3)), pair_sums(by_channel)
        peak = np.minimum(INT8_MAX, PAIR_LIMIT * greatest / np.maximum(sums, 1e-30))

        def round_and_limit(kernel: np.ndarray, scale: np.ndarray, to_format: RoundToFormat) -> np.ndarray:
            return limit_pairs(round_kernel(kernel, scale, to_format))  # rounding moves a few pairs above the limit

        return self._weight(weight, name, axis, np.maximum(peak, 1), round_and_limit, to_int8)

    def fp8_weight(self, weight: np.ndarray, name: str, axis: int, round_kernel: RoundKernel = round_to_nearest) -> str:
        """A kernel stored as E4M3, with a scale per index of `axis`. The greatest magnitude of each becomes 448."""
        return self._weight(weight, name, axis, FP8_MAX, round_kernel, to_fp8)

    def _weight(
        self,
        weight: np.ndarray,
        name: str,
        axis: int,
        peak: float | np.ndarray,
        round_kernel: RoundKernel,
        to_format: RoundToFormat,
    ) -> str:
        """`peak` is the greatest magnitude of every channel, or of each `[channels]`."""
        by_channel = np.moveaxis(weight, axis, 0)
        scale = np.maximum(np.abs(by_channel).max((1, 2, 3)) / peak, 1e-12).astype(self.dtype)
        values = round_kernel(by_channel, scale, to_format)
        inputs = [
            self.g.weight(f"{name}_q", np.moveaxis(values, 0, axis)),
            self.g.weight(f"{name}_scale", scale),
            self.g.weight(f"{name}_zero", np.zeros(len(scale), values.dtype)),
        ]
        return self.g.node("DequantizeLinear", inputs, name, axis=axis)

    def _params(self, params: QuantParams, name: str) -> list[str]:
        return [self._scale(params.scale, name), self._zero_point(params)]

    def _zero_point(self, params: QuantParams) -> str:
        return self.g.constant(params.zero_point, np.int8 if params.symmetric else np.uint8)

    def _scale(self, scale: float, name: str) -> str:
        return self.g.weight(f"{name}_scale", np.array(scale).astype(self.dtype))
