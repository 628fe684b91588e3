"""Post-training calibration: which layers can run in 8 bits, and what their tensors hold on sample latents.

`calibrate` runs the float32 network twice over the same latents.

1. It measures the channels of every tensor next to a convolution. From these follow the scales to migrate
   (`scale_migration.py`).
2. It runs the network with migrated scales. It fills histograms, from which `range_estimators.py` chooses ranges, and
   it collects the moments of the inputs, by which `gptq.py` rounds the weights.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from stylert.core.progress import Progress
from stylert.export.network_plan import (
    MIN_DYNAMIC_RANGE,
    Fp8Quantization,
    Int8Quantization,
    Migration,
    NetworkPlan,
    QuantParams,
    conv_layers,
    float32_plan,
    rgb_layers,
)
from stylert.export.quantization.evaluation import cpu_session
from stylert.export.quantization.gptq import GptqRounder, PatchMoments
from stylert.export.quantization.number_formats import FP8_MAX
from stylert.export.quantization.range_estimators import Histogram, RangeEstimator
from stylert.export.quantization.scale_migration import ChannelStatistics, negative_ratio, scale_migration
from stylert.export.synthesis import synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import GeneratorConfig, LayerSpec

#: In smaller layers the conversions cost more than the multiplications save.
MIN_CHANNELS, MIN_RESOLUTION = 16, 8

#: torgb has little arithmetic. From this resolution on, 8 bits save time because it reads half the bytes.
MIN_RGB_RESOLUTION = 128

#: The estimators with the best images in docs/precision.md, for the input and the output of a convolution.
INPUT_ESTIMATOR: RangeEstimator = "percentile"
OUTPUT_ESTIMATOR: RangeEstimator = "mse"

#: Tensors of each layer that `synthesis_model` returns under `observe`.
OBSERVED_TENSORS = ("style", "modulated", "conv")


def int8_conv_layers(cfg: GeneratorConfig) -> list[LayerSpec]:
    """The modulated convolutions that can run in 8 bits."""
    return [
        spec
        for spec in conv_layers(cfg)
        if min(spec.in_channels, spec.out_channels) >= MIN_CHANNELS and spec.resolution >= MIN_RESOLUTION
    ]


def int8_rgb_layers(cfg: GeneratorConfig) -> list[LayerSpec]:
    """The torgb layers that can run in 8 bits, where their form is `conv`."""
    return [spec for spec in rgb_layers(cfg) if spec.resolution >= MIN_RGB_RESOLUTION]


@dataclass(frozen=True)
class LayerCalibration:
    """The measurements of one layer.

    Attributes:
        migration: The scales to migrate. The histograms are those of the network after the migration.
        negative_ratio: The negative ratio of the input (`Int8Quantization`).
        rounder: Rounds the layer's weights.
        input: Values that the convolution reads.
        output: Values that the convolution writes.
        dynamic_output: The output of each sample divided by the dynamic range of its input, for `negative_ratio`.
        symmetric_dynamic_output: The same for a negative ratio of 1.
    """

    migration: Migration
    negative_ratio: float
    rounder: GptqRounder
    input: Histogram = field(default_factory=Histogram)
    output: Histogram = field(default_factory=Histogram)
    dynamic_output: Histogram = field(default_factory=Histogram)
    symmetric_dynamic_output: Histogram = field(default_factory=Histogram)

    def int8(self, symmetric: bool, quantize_output: bool, dynamic_range: bool = False) -> Int8Quantization:
        """The layer in int8.

        Args:
            symmetric: Whether activations have zero point 0.
            quantize_output: Whether the output of the convolution is quantised, too.
            dynamic_range: Whether the graph measures the range of each sample. Nothing of the input is then clipped.
        """
        if not dynamic_range:
            input_params, output = self.input.quant_params(symmetric, INPUT_ESTIMATOR), self.output
            ratio = None
        elif symmetric:
            ratio = 1.0
            input_params, output = QuantParams.of_range(-1.0, 1.0, symmetric), self.symmetric_dynamic_output
        else:
            ratio = self.negative_ratio
            input_params, output = QuantParams.of_range(-ratio, 1.0, symmetric), self.dynamic_output
        output_params = output.quant_params(symmetric, OUTPUT_ESTIMATOR) if quantize_output else None
        return Int8Quantization(input_params, output_params, ratio, rounder=self.rounder)

    def fp8(self) -> Fp8Quantization:
        """The layer in E4M3, with room for twice the greatest magnitude. Floating point rounds no worse for that."""
        peak = max(-self.input.low, self.input.high, MIN_DYNAMIC_RANGE)
        return Fp8Quantization(2 * peak / FP8_MAX, self.rounder)


#: The measurements of all layers, by layer name.
Calibration = Mapping[str, LayerCalibration]


def calibrate(
    weights: GeneratorWeights, batches: Sequence[np.ndarray], progress: Progress | None = None
) -> dict[str, LayerCalibration]:
    """Measure every layer that can run in 8 bits.

    Args:
        weights: The generator.
        batches: ws `[n, num_ws, w_dim]`. All activations of one batch must fit in memory.
        progress: Called after each run of the network.

    Returns:
        The measurements by layer name.
    """
    specs = {spec.name: spec for spec in int8_conv_layers(weights.config) + int8_rgb_layers(weights.config)}
    if not specs:
        return {}
    runs, total = 0, 2 * len(batches)

    def observe(plan: NetworkPlan) -> Iterator[dict[str, np.ndarray]]:
        """The observed tensors of all layers, `<layer>.<tensor>`, one batch after another."""
        nonlocal runs
        model = synthesis_model(weights, "const", "float", plan, observe=list(specs))
        session = cpu_session(model)
        names = [f"{name}.{tensor}" for name in specs for tensor in OBSERVED_TENSORS]
        for ws in batches:
            yield dict(zip(names, session.run(names, {"ws": ws}), strict=True))
            runs += 1
            if progress is not None:
                progress("calibrate 8 bits", runs, total)

    plan = float32_plan(weights.config, "phases", "conv")
    statistics: dict[str, ChannelStatistics] = defaultdict(ChannelStatistics)
    for tensors in observe(plan):
        for tensor, values in tensors.items():
            statistics[tensor].add(values)

    samples = sum(len(ws) for ws in batches)
    calibration, moments, layers = {}, {}, dict(plan.layers)
    for name, spec in specs.items():
        weight = weights.arrays[f"synthesis.{name}.weight"]
        migration = scale_migration(spec, weight, *(statistics[f"{name}.{tensor}"] for tensor in OBSERVED_TENSORS))
        moments[name] = PatchMoments(spec.in_channels, samples)
        ratio = negative_ratio(statistics[f"{name}.modulated"], migration.input_scale)
        calibration[name] = LayerCalibration(migration, ratio, GptqRounder(moments[name]))
        layers[name] = replace(plan.layer(spec), migration=migration)

    for tensors in observe(replace(plan, layers=layers)):
        for name, layer in calibration.items():
            modulated, conv = tensors[f"{name}.modulated"], tensors[f"{name}.conv"]
            moments[name].add(modulated)
            layer.input.add(modulated)
            layer.output.add(conv)
            layer.dynamic_output.add(conv / dynamic_range(modulated, layer.negative_ratio))
            layer.symmetric_dynamic_output.add(conv / dynamic_range(modulated, 1.0))
    return calibration


def dynamic_range(values: np.ndarray, ratio: float) -> np.ndarray:
    """`[N, 1, 1, 1]`: for each sample of `values` the smallest r for which it lies in [-ratio * r, r]."""
    top, bottom = values.max((1, 2, 3), keepdims=True), values.min((1, 2, 3), keepdims=True)
    return np.maximum(np.maximum(top, -bottom / ratio), MIN_DYNAMIC_RANGE)
