"""From a calibration to a plan: every calibrated layer in 8 bits, the rest in float32 or float16."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from stylert.export.network_plan import (
    ConvForm,
    Fp8Quantization,
    Int8Quantization,
    LayerPlan,
    Migration,
    NetworkPlan,
    RgbForm,
    float16_plan,
)
from stylert.export.quantization.calibration import Calibration
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import GeneratorConfig

#: Up to this resolution the graph measures the range of each sample. In larger images that pass costs more than it is
#: worth (docs/precision.md).
MAX_DYNAMIC_RANGE_RESOLUTION = 64


def int8_plan(
    cfg: GeneratorConfig,
    calibration: Calibration,
    form: ConvForm = "phases",
    symmetric: bool = False,
    outputs: Literal["all", "up", "none"] = "all",
    max_dynamic_range: int = MAX_DYNAMIC_RANGE_RESOLUTION,
    min_fold_modulation: float = math.inf,
    rgb_form: RgbForm = "matmul_nhwc",
) -> NetworkPlan:
    """Every calibrated layer in int8, and the others in float32 and the same form.

    Args:
        cfg: The generator's configuration.
        calibration: The measurements by layer name.
        form: The form of every modulated convolution.
        symmetric: Whether activations have zero point 0, which TensorRT and OpenVINO require. Other ranges fit the
            result of a leaky ReLU better.
        outputs: The convolutions whose output is quantised, too: all, those that upsample, or none. ONNX Runtime runs a
            convolution in int8 only with a quantised output.
        max_dynamic_range: The greatest resolution at which the graph measures each sample's range.
        min_fold_modulation: The least resolution at which quantisation applies style and demodulation
            (`fold_modulation`).
        rgb_form: The form of every torgb. Calibrated ones run in int8 when it is `conv`. The default suits ONNX
            Runtime, which keeps activations channels last between 8-bit convolutions.
    """
    layers = {}
    for spec in cfg.layers():
        measured = calibration.get(spec.name)
        if spec.kind == "torgb":
            if measured is not None and rgb_form == "conv":
                layers[spec.name] = LayerPlan(rgb_form, measured.migration, measured.int8(symmetric, quantize_output=False))
        elif measured is None:
            layers[spec.name] = LayerPlan(form)
        else:
            quantize_output = outputs == "all" or (outputs == "up" and spec.up == 2)
            int8 = measured.int8(symmetric, quantize_output, dynamic_range=spec.resolution <= max_dynamic_range)
            int8 = replace(int8, fold_modulation=spec.resolution >= min_fold_modulation)
            layers[spec.name] = LayerPlan(form, measured.migration, int8)
    return NetworkPlan(layers, rgb_form=rgb_form)


def float16_int8_plan(weights: GeneratorWeights, calibration: Calibration) -> NetworkPlan:
    """Symmetric int8 with fixed ranges and float outputs, as TensorRT takes it. The rest is float16."""
    quantization = {name: measured.int8(symmetric=True, quantize_output=False) for name, measured in calibration.items()}
    return _float16_quantized_plan(weights, calibration, quantization)


def float16_fp8_plan(weights: GeneratorWeights, calibration: Calibration) -> NetworkPlan:
    """E4M3 in every calibrated convolution. The rest is float16."""
    return _float16_quantized_plan(weights, calibration, {name: measured.fp8() for name, measured in calibration.items()})


def _float16_quantized_plan(
    weights: GeneratorWeights, calibration: Calibration, quantization: Mapping[str, Int8Quantization | Fp8Quantization]
) -> NetworkPlan:
    """Polyphase, because TensorRT-RTX has no 8-bit transposed convolution. torgb stays in float16.

    Output channels are scaled so that the greatest weight of each is 1. Its quantisation scale then fits float16.
    """
    float16 = float16_plan(weights, "polyphase", "matmul_nhwc")
    layers = dict(float16.layers)
    for name in layers:
        if name not in calibration:
            continue
        migration = calibration[name].migration
        weight = np.abs(weights.arrays[f"synthesis.{name}.weight"] * migration.input_scale[None, :, None, None])
        peak = weight.max((1, 2, 3)).astype(np.float64)
        migration = Migration(migration.input_scale, np.where(peak > 0, peak, 1.0), migration.input_power)
        scaled = _with_smaller_input(quantization[name], float16.activation_scale)
        layers[name] = LayerPlan("polyphase", migration, scaled)
    return replace(float16, layers=layers)


def _with_smaller_input(quantization: Int8Quantization | Fp8Quantization, factor: float) -> Int8Quantization | Fp8Quantization:
    """The quantisation of an input that is divided by `factor`."""
    if isinstance(quantization, Fp8Quantization):
        return replace(quantization, input_scale=quantization.input_scale / factor)
    return replace(quantization, input=replace(quantization.input, scale=quantization.input.scale / factor))
