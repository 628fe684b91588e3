"""INT8 by post-training calibration: which layers, and with which scales.

Two passes over the same latents. The first measures every channel on both sides of each convolution and sets the exact
scale migration; the second takes histograms in the migrated network and picks, per tensor, the clipping range that serves the
samples best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from stylert.export.plan import Form, Int8Steps, LayerPlan, Migration, NetworkPlan, Step
from stylert.export.synthesis import synthesis_model
from stylert.train.checkpoint import GeneratorWeights
from stylert.train.config import GeneratorConfig, LayerSpec

#: Fewer input channels than this, or a smaller image, and the conversions cost more than the multiplications save.
MIN_CHANNELS, MIN_RESOLUTION = 16, 8

HISTOGRAM_BINS = 4096
HISTOGRAM_VALUES = 2**18  # of a sample, evenly spread, are counted; its extremes are of all
CLIP_CANDIDATES = 60

Progress = Callable[[int, int], None]


def int8_layers(cfg: GeneratorConfig) -> list[LayerSpec]:
    """The convolutions that run in 8 bits; torgb stays out, it is small and its error is seen directly."""
    return [
        s
        for s in cfg.layers()
        if s.kind == "conv" and min(s.in_channels, s.out_channels) >= MIN_CHANNELS and s.resolution >= MIN_RESOLUTION
    ]


@dataclass(frozen=True)
class LayerCalibration:
    """What one layer showed: the scales to migrate, and the values on both sides of its convolution after that."""

    migration: Migration
    input: Histogram
    output: Histogram

    def steps(self, symmetric: bool, outputs: bool) -> Int8Steps:
        return Int8Steps(self.input.best_step(symmetric), self.output.best_step(symmetric) if outputs else None)


Calibration = Mapping[str, LayerCalibration]


def int8_plan(
    cfg: GeneratorConfig, calibration: Calibration, form: Form = "phases", symmetric: bool = False, outputs: bool = True
) -> NetworkPlan:
    """Every calibrated layer in 8 bits, the others as they are in the same form.

    `symmetric` activations are what TensorRT takes; a range of its own on either side of zero fits what a leaky ReLU leaves
    better. `outputs` also quantises behind each convolution, without which ONNX Runtime does not run it in 8 bits.
    """
    layers = {}
    for spec in cfg.layers():
        if spec.kind == "conv":
            found = calibration.get(spec.name)
            layers[spec.name] = (
                LayerPlan(form) if found is None else LayerPlan(form, found.migration, found.steps(symmetric, outputs))
            )
    return NetworkPlan(layers)


def calibrate(
    weights: GeneratorWeights, batches: Sequence[np.ndarray], progress: Progress | None = None
) -> dict[str, LayerCalibration]:
    """Measure every layer of `int8_layers` over ws.

    `batches` are ws `[n, num_ws, w_dim]`, small enough that all activations of one fit in memory at once.
    """
    names = [s.name for s in int8_layers(weights.config)]
    plans = {s.name: LayerPlan("phases") for s in weights.config.layers() if s.kind == "conv"}
    total, done = 2 * len(batches), 0

    def observe() -> Iterable[tuple[str, np.ndarray]]:
        """Styles and both sides of every convolution of the network under the present plans, batch after batch."""
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
        return {}
    ranges: dict[str, _ChannelRange] = defaultdict(_ChannelRange)
    for tensor, values in observe():
        ranges[tensor].add(values)
    for name in names:
        plans[name] = LayerPlan("phases", _migration(weights.arrays[f"synthesis.{name}.weight"], name, ranges))
    histograms: dict[str, Histogram] = defaultdict(Histogram)
    for tensor, values in observe():
        if not tensor.endswith(".style"):
            histograms[tensor].add(values)
    return {
        name: LayerCalibration(migration, histograms[f"{name}.modulated"], histograms[f"{name}.conv"])
        for name in names
        if (migration := plans[name].migration) is not None
    }


def _migration(weight: np.ndarray, name: str, ranges: Mapping[str, _ChannelRange]) -> Migration:
    modulated, conv, style = (ranges[f"{name}.{side}"] for side in ("modulated", "conv", "style"))
    in_equal = np.sqrt(_positive(modulated.peak) / _positive(np.abs(weight).max((0, 2, 3))))
    # Four phases of one output channel share its factor: the FIR mixes them.
    out_equal = _positive(np.sqrt(conv.mean_square.reshape(-1, len(weight)).mean(0)))
    in_power = _positive(modulated.mean_square) / _positive(style.mean_square)
    return Migration(_unit_mean(in_equal), _unit_mean(out_equal), in_power)


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


class Histogram:
    """Values of a tensor, sample by sample. The range doubles, and pairs of bins merge, when a value does not fit."""

    def __init__(self) -> None:
        self.top = self.low = self.high = 0.0  # bins span [-top, top], values [low, high]
        self.samples: list[np.ndarray] = []  # counts per bin

    def add(self, values: np.ndarray) -> None:
        """`[N, …]`: N samples."""
        for sample in values.reshape(len(values), -1):
            self.low, self.high = min(self.low, float(sample.min())), max(self.high, float(sample.max()))
            peak = max(-self.low, self.high)
            if self.top == 0:
                self.top = peak
            while peak > self.top > 0:
                self.top *= 2
                self.samples = [np.pad(c.reshape(-1, 2).sum(1), HISTOGRAM_BINS // 4) for c in self.samples]
            thin = sample[:: sample.size // HISTOGRAM_VALUES | 1]  # an odd stride visits every column
            self.samples.append(np.histogram(thin, HISTOGRAM_BINS, (-self.top or -1.0, self.top or 1.0))[0])

    def best_step(self, symmetric: bool) -> Step:
        """The step with the best mean signal-to-noise ratio in decibels, of rounding and clipping together.

        A mean of decibels, not of squares: what counts is every image, and one that clips does not show in a pooled error.
        """
        if self.top == 0:
            return Step(1.0, 0, symmetric)  # nothing but zeros: any step represents them
        counts = np.stack(self.samples, axis=1)
        centers = (np.arange(HISTOGRAM_BINS) + 0.5) * (2 * self.top / HISTOGRAM_BINS) - self.top

        def loss(step: Step) -> float:
            bottom, top = (-127, 127) if step.symmetric else (-step.zero_point, 255 - step.zero_point)
            error = np.square(np.clip(np.rint(centers / step.scale), bottom, top) * step.scale - centers)
            return float(np.log(error @ counts + 1e-30).mean())

        clips = np.linspace(0.1, 1.0, CLIP_CANDIDATES)
        if symmetric:
            return min((Step(c * max(-self.low, self.high) / 127) for c in clips), key=loss)
        # Along each end in turn, from the whole range: the two hardly depend on each other.
        low, high = self.low, self.high
        for _ in range(2):
            high = min(clips * self.high, key=lambda h: loss(_asymmetric(low, h)), default=high)
            low = min(clips * self.low, key=lambda b: loss(_asymmetric(b, high)), default=low)
        return _asymmetric(low, high)


def _asymmetric(low: float, high: float) -> Step:
    """The step of [low, high], which holds zero; zero is one of its levels."""
    scale = max(high - low, 1e-12) / 255
    return Step(scale, int(np.clip(np.rint(-low / scale), 0, 255)), symmetric=False)


def _positive(x: np.ndarray) -> np.ndarray:
    """Channels that were never active get the smallest active range, so that nothing divides by zero."""
    active = x[x > 0]
    return np.maximum(x, active.min() if active.size else 1.0)


def _unit_mean(x: np.ndarray) -> np.ndarray:
    return x / np.exp(np.log(x).mean())
