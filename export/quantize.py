"""INT8 by post-training calibration: which layers, and with which scales.

Two passes over the same latents. The first measures every channel on both sides of each convolution and sets the exact
scale migration; the second takes histograms in the migrated network and picks, per tensor, the clipping range with the
least mean squared error.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnxruntime as ort

from stylert.export.plan import Int8Scales, LayerPlan, Migration, NetworkPlan
from stylert.export.synthesis import synthesis_model
from stylert.train.checkpoint import GeneratorWeights
from stylert.train.config import GeneratorConfig, LayerSpec

#: Fewer input channels than this, or a smaller image, and the conversions cost more than the multiplications save.
MIN_CHANNELS, MIN_RESOLUTION = 16, 8

HISTOGRAM_BINS = 4096
CLIP_CANDIDATES = 80

Progress = Callable[[int, int], None]


def int8_layers(cfg: GeneratorConfig) -> list[LayerSpec]:
    """The convolutions that run in 8 bits; torgb stays out, it is small and its error is seen directly."""
    return [
        s
        for s in cfg.layers()
        if s.kind == "conv" and min(s.in_channels, s.out_channels) >= MIN_CHANNELS and s.resolution >= MIN_RESOLUTION
    ]


def calibrate(weights: GeneratorWeights, batches: Sequence[np.ndarray], progress: Progress | None = None) -> NetworkPlan:
    """A plan for `synthesis_model` that puts every layer of `int8_layers` in 8 bits.

    `batches` are ws `[n, num_ws, w_dim]`, small enough that all activations of one fit in memory at once.
    """
    names = [s.name for s in int8_layers(weights.config)]
    plans = {s.name: LayerPlan("phases") for s in weights.config.layers() if s.kind == "conv"}
    total, done = 2 * len(batches), 0

    def observe() -> Iterable[tuple[str, np.ndarray]]:
        """Both sides of every convolution of the network under the present plans, batch after batch."""
        nonlocal done
        tensors = [f"{name}.{side}" for name in names for side in ("style", "modulated", "conv")]
        model = synthesis_model(weights, "const", "float", NetworkPlan(plans), observe=names)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for ws in batches:
            yield from zip(tensors, session.run(tensors, {"ws": ws}), strict=True)
            done += 1
            if progress is not None:
                progress(done, total)

    if not names:
        return NetworkPlan(plans)
    ranges: dict[str, _ChannelRange] = defaultdict(_ChannelRange)
    for tensor, values in observe():
        ranges[tensor].add(values)
    for name in names:
        weight = weights.arrays[f"synthesis.{name}.weight"]
        peak = np.abs(weight).max((0, 2, 3))
        in_equal = _unit_mean(np.sqrt(_positive(ranges[f"{name}.modulated"].peak) / _positive(peak)))
        # Four phases of one output channel share its factor: the FIR mixes them.
        rms = np.sqrt(ranges[f"{name}.conv"].mean_square.reshape(-1, len(weight)).mean(0))
        power = _positive(ranges[f"{name}.modulated"].mean_square) / _positive(ranges[f"{name}.style"].mean_square)
        plans[name] = LayerPlan("phases", Migration(in_equal, _unit_mean(_positive(rms)), power))

    histograms: dict[str, _Histogram] = defaultdict(_Histogram)
    for tensor, values in observe():
        if not tensor.endswith(".style"):
            histograms[tensor].add(values)
    for name in names:
        scales = Int8Scales(histograms[f"{name}.modulated"].best_scale(), histograms[f"{name}.conv"].best_scale())
        plans[name] = dataclasses.replace(plans[name], int8=scales)
    return NetworkPlan(plans)


class _ChannelRange:
    """Running peak and mean square of every channel of `[N, C, …]`."""

    def __init__(self) -> None:
        self.peak = self.square = np.zeros(1)
        self.count = 0

    def add(self, values: np.ndarray) -> None:
        axes = (0, *range(2, values.ndim))
        self.peak = np.maximum(self.peak, np.abs(values).max(axes))
        self.square = self.square + np.square(values, dtype=np.float64).sum(axes)
        self.count += values.size // values.shape[1]

    @property
    def mean_square(self) -> np.ndarray:
        return self.square / max(self.count, 1)


class _Histogram:
    """Magnitudes of a tensor. The range doubles, and pairs of bins merge, when a value does not fit."""

    def __init__(self) -> None:
        self.top = self.peak = 0.0
        self.counts = np.zeros(HISTOGRAM_BINS, np.int64)

    def add(self, values: np.ndarray) -> None:
        magnitude = np.abs(values)
        peak = float(magnitude.max(initial=0.0))
        self.peak = max(self.peak, peak)
        if self.top == 0:
            self.top = peak
        while peak > self.top > 0:
            self.top *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(HISTOGRAM_BINS // 2, np.int64)])
        if self.top > 0:
            self.counts += np.histogram(magnitude, HISTOGRAM_BINS, (0, self.top))[0]

    def best_scale(self) -> float:
        """The step, `clip / 127`, with the least mean squared error of rounding and clipping together."""
        if self.top == 0:
            return 1.0  # nothing but zeros: any step represents them
        centers = (np.arange(HISTOGRAM_BINS) + 0.5) * (self.top / HISTOGRAM_BINS)
        scales = np.linspace(0.1, 1.0, CLIP_CANDIDATES) * self.peak / 127
        levels = np.minimum(np.rint(centers / scales[:, None]), 127) * scales[:, None]
        error = (np.square(levels - centers) * self.counts).sum(1)
        return float(scales[error.argmin()])


def _positive(x: np.ndarray) -> np.ndarray:
    """Channels that were never active get the smallest active range, so that nothing divides by zero."""
    active = x[x > 0]
    return np.maximum(x, active.min() if active.size else 1.0)


def _unit_mean(x: np.ndarray) -> np.ndarray:
    return x / np.exp(np.log(x).mean())
