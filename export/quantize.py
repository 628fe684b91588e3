"""INT8 by post-training calibration: which layers, and with which scales.

Two passes over the same latents. The first measures every channel on both sides of each convolution and sets the exact
scale migration; the second takes histograms of what remains and picks, per tensor, the clipping range with the least
mean squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from stylert.export.synthesis import Int8Plan, LayerPlan, synthesis_model
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


def calibrate(
    weights: GeneratorWeights, batches: Sequence[np.ndarray], progress: Progress | None = None
) -> dict[str, LayerPlan]:
    """Plans for `synthesis_model` that put every layer of `int8_layers` in 8 bits.

    `batches` are ws `[n, num_ws, w_dim]`, small enough that all activations of one fit in memory at once.
    """
    names = [s.name for s in int8_layers(weights.config)]
    plain = {s.name: LayerPlan("phases") for s in weights.config.layers() if s.kind == "conv"}
    if not names:
        return plain
    model = synthesis_model(weights, "const", "float", plain, observe=names)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    total, done = 2 * len(batches), 0

    ranges = {n: _ChannelRange() for name in names for n in (f"{name}.modulated", f"{name}.conv")}
    for batch in batches:
        for tensor, values in _observe(session, ranges, batch):
            ranges[tensor].add(values)
        done += 1
        if progress is not None:
            progress(done, total)

    equal: dict[str, np.ndarray] = {}
    for name in names:
        peak = np.abs(weights.arrays[f"synthesis.{name}.weight"]).max((0, 2, 3))
        equal[f"{name}.modulated"] = _unit_mean(np.sqrt(_positive(ranges[f"{name}.modulated"].peak) / _positive(peak)))
        o = weights.arrays[f"synthesis.{name}.weight"].shape[0]
        # Four phases of one output channel share its factor: the FIR mixes them.
        rms = np.sqrt(ranges[f"{name}.conv"].mean_square.reshape(-1, o).mean(0))
        equal[f"{name}.conv"] = _unit_mean(_positive(rms))

    histograms = {}
    for tensor, seen in ranges.items():
        factor = np.tile(equal[tensor], len(seen.peak) // len(equal[tensor]))
        histograms[tensor] = _Histogram(factor, float((seen.peak / factor).max()))
    for batch in batches:
        for tensor, values in _observe(session, ranges, batch):
            histograms[tensor].add(values)
        done += 1
        if progress is not None:
            progress(done, total)

    for name in names:
        plain[name] = LayerPlan(
            "phases",
            Int8Plan(
                in_scale=histograms[f"{name}.modulated"].best_scale(),
                out_scale=histograms[f"{name}.conv"].best_scale(),
                in_equal=equal[f"{name}.modulated"].astype(np.float32),
                out_equal=equal[f"{name}.conv"].astype(np.float32),
            ),
        )
    return plain


def _observe(session: ort.InferenceSession, tensors: Iterable[str], ws: np.ndarray) -> Iterable[tuple[str, np.ndarray]]:
    names = list(tensors)
    return zip(names, session.run(names, {"ws": ws}), strict=True)


class _ChannelRange:
    """Running peak and mean square of every channel of `[N, C, H, W]`."""

    def __init__(self) -> None:
        self.peak = self.square = np.zeros(1)
        self.count = 0

    def add(self, values: np.ndarray) -> None:
        self.peak = np.maximum(self.peak, np.abs(values).max((0, 2, 3)))
        self.square = self.square + np.square(values, dtype=np.float64).sum((0, 2, 3))
        self.count += values.size // values.shape[1]

    @property
    def mean_square(self) -> np.ndarray:
        return self.square / max(self.count, 1)


@dataclass
class _Histogram:
    """Magnitudes of a tensor whose channels are divided by `factor`."""

    factor: np.ndarray
    top: float
    counts: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        magnitude = np.abs(values / self.factor[None, :, None, None].astype(np.float32))
        counts, _ = np.histogram(magnitude, HISTOGRAM_BINS, (0, max(self.top, 1e-12)))
        self.counts = counts if self.counts is None else self.counts + counts

    def best_scale(self) -> float:
        """The step, `clip / 127`, with the least mean squared error of rounding and clipping together."""
        assert self.counts is not None
        top = max(self.top, 1e-12)
        centers = (np.arange(HISTOGRAM_BINS) + 0.5) * (top / HISTOGRAM_BINS)
        scales = np.linspace(0.1, 1.0, CLIP_CANDIDATES) * top / 127
        levels = np.minimum(np.rint(centers / scales[:, None]), 127) * scales[:, None]
        error = (np.square(levels - centers) * self.counts).sum(1)
        return float(scales[error.argmin()])


def _positive(x: np.ndarray) -> np.ndarray:
    """Channels that were never active get the smallest active range, so that nothing divides by zero."""
    active = x[x > 0]
    return np.maximum(x, active.min() if active.size else 1.0)


def _unit_mean(x: np.ndarray) -> np.ndarray:
    return x / np.exp(np.log(x).mean())
