"""INT8 by post-training calibration: which layers, and with which scales.

Two passes over the same latents. The first measures every channel on both sides of each convolution and sets the exact
scale migration; the second takes histograms in the migrated network and picks, per tensor, the clipping range that serves the
samples best, and collects what the weights' rounding goes by.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnxruntime as ort

from stylert.export.plan import REACH_EPS, Form, Fp8Scale, Int8Steps, LayerPlan, Migration, NetworkPlan, RgbForm, plain_plan
from stylert.export.quantization.gptq import FP8_MAX, PatchMoments, Rounding
from stylert.export.quantization.range_estimators import Clipping, Histogram, range_step
from stylert.export.synthesis import synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import GeneratorConfig, LayerSpec

#: Fewer input channels than this, or a smaller image, and the conversions cost more than the multiplications save.
MIN_CHANNELS, MIN_RESOLUTION = 16, 8

#: torgb has next to no arithmetic. From here on it is what it reads that takes its time, and 8 bits are half of that.
MIN_RGB_RESOLUTION = 128

#: The criteria that did best in docs/precision.md, on either side of a convolution.
INPUT_CLIPPING: Clipping = "percentile"
OUTPUT_CLIPPING: Clipping = "mse"
DEPTHS = np.geomspace(0.1, 2.0, 40)

#: How much of the spread of the inputs' ranges goes over to the weights (SmoothQuant's alpha). Half would burden both alike; weights
#: bear more, since they are rounded with a view to each other (docs/precision.md).
BALANCE = 0.6

#: In larger images the pass that measures the range of each sample costs more than its accuracy is worth (docs/precision.md).
MAX_REACH_RESOLUTION = 64

Progress = Callable[[int, int], None]


def int8_layers(cfg: GeneratorConfig) -> list[LayerSpec]:
    """The modulated convolutions that run in 8 bits."""
    return [
        s
        for s in cfg.layers()
        if s.kind == "conv" and min(s.in_channels, s.out_channels) >= MIN_CHANNELS and s.resolution >= MIN_RESOLUTION
    ]


def int8_rgbs(cfg: GeneratorConfig) -> list[LayerSpec]:
    """The torgb layers that can run in 8 bits, on backends where they are convolutions."""
    return [s for s in cfg.layers() if s.kind == "torgb" and s.resolution >= MIN_RGB_RESOLUTION]


@dataclass(frozen=True)
class LayerCalibration:
    """What one layer showed: the scales to migrate, the values on both sides of its convolution after that, and how to round its weights.

    `reach_output` are the outputs where every sample is divided by its reach, with `depth` (`Int8Steps`) and with depth 1.
    """

    migration: Migration
    depth: float
    input: Histogram
    output: Histogram
    reach_output: tuple[Histogram, Histogram]
    rounding: Rounding

    def steps(self, symmetric: bool, outputs: bool, by_reach: bool = False) -> Int8Steps:
        """8-bit steps; `by_reach` measures each sample's range as it comes, and then nothing of the input is clipped."""
        if not by_reach:
            output = self.output.best_step(symmetric, OUTPUT_CLIPPING) if outputs else None
            return Int8Steps(self.input.best_step(symmetric, INPUT_CLIPPING), output, rounding=self.rounding)
        depth = 1.0 if symmetric else self.depth
        output = self.reach_output[symmetric].best_step(symmetric, OUTPUT_CLIPPING) if outputs else None
        return Int8Steps(range_step(-depth, 1.0, symmetric), output, depth, rounding=self.rounding)

    def fp8(self) -> Fp8Scale:
        """A scale with room for twice what the samples held: floating point rounds no worse for it, and clips the less."""
        return Fp8Scale(2 * max(-self.input.low, self.input.high, REACH_EPS) / FP8_MAX, self.rounding)


Calibration = Mapping[str, LayerCalibration]


def int8_plan(
    cfg: GeneratorConfig,
    calibration: Calibration,
    form: Form = "phases",
    symmetric: bool = False,
    outputs: Literal["all", "up", "none"] = "all",
    max_reach: int = MAX_REACH_RESOLUTION,
    min_scaled: float = math.inf,
    rgb: RgbForm = "matmul_nhwc",
) -> NetworkPlan:
    """Every calibrated layer in 8 bits, the others as they are in the same form; torgb only as a convolution.

    `symmetric` activations are what TensorRT and OpenVINO take; a range of its own on either side of zero fits what a leaky ReLU
    leaves better. `outputs` says behind which convolutions to quantise as well: ONNX Runtime runs none in 8 bits without it. Up to
    `max_reach` px the range of every sample is measured as it comes, for one pass over what a convolution reads. From `min_scaled`
    px on, style and demodulation are taken into the steps.
    """
    layers = {}
    for spec in cfg.layers():
        found = calibration.get(spec.name)
        if spec.kind == "conv":
            steps = None
            if found is not None:
                behind = outputs == "all" or (outputs == "up" and spec.up == 2)
                steps = found.steps(symmetric, behind, by_reach=spec.resolution <= max_reach)
                steps = replace(steps, scaled=spec.resolution >= min_scaled)
            layers[spec.name] = LayerPlan(form, None if found is None else found.migration, steps)
        elif found is not None and rgb == "conv":
            layers[spec.name] = LayerPlan(rgb, found.migration, found.steps(symmetric, outputs=False))
    # What lies between convolutions in 8 bits, ONNX Runtime keeps channels last, hence the form of torgb.
    return NetworkPlan(layers, rgb=rgb)


def calibrate(
    weights: GeneratorWeights, batches: Sequence[np.ndarray], progress: Progress | None = None
) -> dict[str, LayerCalibration]:
    """Measure every layer of `int8_layers` and `int8_rgbs` over ws.

    `batches` are ws `[n, num_ws, w_dim]`, small enough that all activations of one fit in memory at once.
    """
    specs = {s.name: s for s in int8_layers(weights.config) + int8_rgbs(weights.config)}
    names = list(specs)
    plans = plain_plan(weights.config, "phases", "conv")
    total, done = 2 * len(batches), 0

    def observe() -> Iterable[tuple[str, np.ndarray]]:
        """Styles and both sides of every convolution of the network under the present plans, batch after batch."""
        nonlocal done
        tensors = [f"{name}.{side}" for name in names for side in ("style", "modulated", "conv")]
        model = synthesis_model(weights, "const", "float", plans, observe=names)
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
    migrations = {name: _migration(weights.arrays[f"synthesis.{name}.weight"], spec, ranges) for name, spec in specs.items()}
    layers = {name: replace(plans.layer(spec), migration=migrations[name]) for name, spec in specs.items()}
    plans = replace(plans, layers={**plans.layers, **layers})
    depths = {name: _depth(ranges[f"{name}.modulated"], migrations[name].in_equal) for name in names}
    samples = sum(len(ws) for ws in batches)
    moments = {name: PatchMoments(spec.in_channels, samples) for name, spec in specs.items()}
    seen = {
        name: LayerCalibration(
            migrations[name], depths[name], Histogram(), Histogram(), (Histogram(), Histogram()), Rounding(moments[name])
        )
        for name in names
    }
    reaches: list[np.ndarray] = []
    for tensor, values in observe():
        name, side = tensor.rsplit(".", 1)
        found = seen[name]
        if side == "modulated":
            found.input.add(values)
            moments[name].add(values)
            reaches = [_reach(values, depth) for depth in (found.depth, 1.0)]
        elif side == "conv":
            found.output.add(values)
            for histogram, reach in zip(found.reach_output, reaches, strict=True):
                histogram.add(values / reach)
    return seen


def _reach(values: np.ndarray, depth: float) -> np.ndarray:
    """`[N, 1, 1, 1]`: the smallest r for which a sample lies in [-depth r, r]."""
    top, bottom = values.max((1, 2, 3), keepdims=True), values.min((1, 2, 3), keepdims=True)
    return np.maximum(np.maximum(top, -bottom / depth), REACH_EPS)


def _depth(modulated: _ChannelRange, in_equal: np.ndarray) -> float:
    """The depth with which [-depth r, r] is the shortest on the whole, in mean square relative to the greater of the ends."""
    top = np.maximum((np.stack(modulated.highs) / in_equal).max(1), 1e-12)
    bottom = np.maximum((-np.stack(modulated.lows) / in_equal).max(1), 1e-12)

    def loss(depth: float) -> float:
        return float(np.square(np.maximum(top, bottom / depth) * (1 + depth) / np.maximum(top, bottom)).mean())

    return float(min(DEPTHS, key=loss))


def _migration(weight: np.ndarray, spec: LayerSpec, ranges: Mapping[str, _ChannelRange]) -> Migration:
    modulated, conv, style = (ranges[f"{spec.name}.{side}"] for side in ("modulated", "conv", "style"))
    in_equal = _positive(modulated.peak) ** BALANCE / _positive(np.abs(weight).max((0, 2, 3))) ** (1 - BALANCE)
    # Four phases of one output channel share its factor: the FIR mixes them.
    out_equal = _positive(np.sqrt(conv.mean_square.reshape(-1, len(weight)).mean(0)))
    if spec.kind == "torgb":  # no demodulation would bring it back
        out_equal = np.ones(len(weight))
    in_power = _positive(modulated.mean_square) / _positive(style.mean_square)
    return Migration(_unit_mean(in_equal), _unit_mean(out_equal), in_power)


class _ChannelRange:
    """Of every channel of `[N, C, …]`: running peak and mean square, and each sample's own ends."""

    def __init__(self) -> None:
        self.peak = self.square = np.zeros(1)
        self.highs: list[np.ndarray] = []
        self.lows: list[np.ndarray] = []
        self.count = 0

    def add(self, values: np.ndarray) -> None:
        axes = (0, *range(2, values.ndim))
        space = tuple(range(2, values.ndim))
        high, low = values.max(space), values.min(space)
        self.highs += list(high)
        self.lows += list(low)
        self.peak = np.maximum(self.peak, np.maximum(high, -low).max(0))
        self.square = self.square + np.square(values, dtype=np.float64).sum(axes)
        self.count += values.size // values.shape[1]

    @property
    def mean_square(self) -> np.ndarray:
        return self.square / max(self.count, 1)


def _positive(x: np.ndarray) -> np.ndarray:
    """Channels that were never active get the smallest active range, so that nothing divides by zero."""
    active = x[x > 0]
    return np.maximum(x, active.min() if active.size else 1.0)


def _unit_mean(x: np.ndarray) -> np.ndarray:
    return x / np.exp(np.log(x).mean())
