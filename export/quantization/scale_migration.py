"""Computes migration scales as in SmoothQuant: a part of the activations' ranges moves into the weights.

The demodulation restores the scale of the output. The module also collects the statistics of channels, and chooses the
`negative_ratio` of a dynamic range."""

from __future__ import annotations

import numpy as np

from stylert.export.network_plan import Migration
from stylert.models.stylegan2.config import LayerSpec

#: The share of the spread of the inputs' ranges that moves to the weights (alpha of SmoothQuant). docs/precision.md
#: compares values.
SMOOTHQUANT_ALPHA = 0.6

#: The candidates for `Int8Quantization.negative_ratio`.
NEGATIVE_RATIOS = np.geomspace(0.1, 2.0, 40)


class ChannelStatistics:
    """Statistics of each channel of a tensor `[N, C, ...]`, over all samples.

    Attributes:
        peak: `[C]`, the greatest magnitude.
        highs: The greatest value of each channel `[C]`, for every sample.
        lows: The least value of each channel `[C]`, for every sample.
    """

    def __init__(self) -> None:
        self.peak = self._sum_of_squares = np.zeros(1)
        self.highs: list[np.ndarray] = []
        self.lows: list[np.ndarray] = []
        self._count = 0

    def add(self, values: np.ndarray) -> None:
        """Add N samples `[N, C, ...]`."""
        pixels = tuple(range(2, values.ndim))
        high, low = values.max(pixels), values.min(pixels)
        self.highs += list(high)
        self.lows += list(low)
        self.peak = np.maximum(self.peak, np.maximum(high, -low).max(0))
        self._sum_of_squares = self._sum_of_squares + np.square(values, dtype=np.float64).sum((0, *pixels))
        self._count += values.size // values.shape[1]

    @property
    def mean_square(self) -> np.ndarray:
        """`[C]`, float64."""
        return self._sum_of_squares / max(self._count, 1)


def scale_migration(
    spec: LayerSpec, weight: np.ndarray, style: ChannelStatistics, modulated: ChannelStatistics, conv: ChannelStatistics
) -> Migration:
    """The migration that evens out the channels on both sides of a layer's convolution.

    Args:
        spec: The layer.
        weight: `[O, I, k, k]`.
        style: Statistics of the layer's style `[N, I]`.
        modulated: Statistics of the convolution's input `[N, I, H, W]`.
        conv: Statistics of its output, which is `[N, O, H, W]` or four phases `[N, 4 O, H, W]`.
    """
    output_scale = np.ones(len(weight))
    if spec.kind == "conv":  # only demodulation restores the output
        # The FIR mixes the four phases of an output channel, so they share a scale.
        output_scale = _positive(np.sqrt(conv.mean_square.reshape(-1, len(weight)).mean(0)))
    input_power = _positive(modulated.mean_square) / _positive(style.mean_square)
    return Migration(input_scale(modulated, weight), _unit_geometric_mean(output_scale), input_power)


def input_scale(inputs: ChannelStatistics, weight: np.ndarray) -> np.ndarray:
    """`[I]`, the scale of each input channel of a convolution with weights `[O, I, k, k]`. Its geometric mean is 1."""
    peak, weight_peak = _positive(inputs.peak), _positive(np.abs(weight).max((0, 2, 3)))
    return _unit_geometric_mean(peak**SMOOTHQUANT_ALPHA / weight_peak ** (1 - SMOOTHQUANT_ALPHA))


def negative_ratio(modulated: ChannelStatistics, scale: np.ndarray) -> float:
    """The ratio q that makes the ranges [-q r, r] of all samples shortest (`Int8Quantization.negative_ratio`).

    The loss is the mean square of the ranges' lengths, each relative to the greatest magnitude in its sample.

    Args:
        modulated: Statistics of the convolution's input.
        scale: `[I]`, the input scales of the migration.
    """
    top = np.maximum((np.stack(modulated.highs) / scale).max(1), 1e-12)
    bottom = np.maximum((-np.stack(modulated.lows) / scale).max(1), 1e-12)

    def loss(ratio: float) -> float:
        lengths = np.maximum(top, bottom / ratio) * (1 + ratio)
        return float(np.square(lengths / np.maximum(top, bottom)).mean())

    return float(min(NEGATIVE_RATIOS, key=loss))


def _positive(x: np.ndarray) -> np.ndarray:
    """`x` with the least positive value in place of zeros, so that nothing is divided by zero."""
    active = x[x > 0]
    return np.maximum(x, active.min() if active.size else 1.0)


def _unit_geometric_mean(x: np.ndarray) -> np.ndarray:
    return x / np.exp(np.log(x).mean())
