"""StyleGAN1 in 8 bits: the calibration, the plan of each backend, and the search for layers that stay in float.

The steps are those of StyleGAN2 (`calibration.py`, `quantized_plans.py`, `sensitivity.py`), with their parts. Instance
norm undoes the scale of its input, so a range that is measured for each sample needs no other arithmetic.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stylert.core.progress import Progress
from stylert.export.network_plan import Migration
from stylert.export.quantization.calibration import MIN_CHANNELS, MIN_RESOLUTION, LayerCalibration, dynamic_range
from stylert.export.quantization.calibration_latents import calibration_latents, search_latents
from stylert.export.quantization.evaluation import cpu_session, runs_network_files, synthesize, synthesize_on
from stylert.export.quantization.gptq import GptqRounder, PatchMoments
from stylert.export.quantization.quantization_record import CANONICAL
from stylert.export.quantization.quantized_plans import MAX_DYNAMIC_RANGE_RESOLUTION
from stylert.export.quantization.scale_migration import ChannelStatistics, input_scale, negative_ratio
from stylert.export.quantization.sensitivity import SAMPLES_PER_LAYER, Sensitivity, search_layers
from stylert.export.stylegan1 import SynthesisGraph, synthesis_model
from stylert.export.stylegan1_plan import NetworkPlan, QuantizedLayer, UpForm
from stylert.models.checkpoint import Stylegan1Weights
from stylert.models.stylegan1.config import GeneratorConfig, LayerSpec
from stylert.runtime.bundle import NO_VNNI

#: The facts of a recipe beside the layers.
INT8_FACTS: dict[str, Any] = {
    "activations": "8 bits per tensor; the range of each sample, or a fixed one by backend and image size",
    "outputs": "8 bits per tensor on ONNX Runtime, and before the blur on OpenVINO",
    "weights": "int8 per channel",
}

Calibration = dict[str, LayerCalibration]


def conv_layers(cfg: GeneratorConfig) -> list[LayerSpec]:
    """The 3x3 convolutions."""
    return [spec for spec in cfg.layers() if spec.kind == "conv"]


def int8_layers(cfg: GeneratorConfig) -> list[LayerSpec]:
    """The convolutions that can run in 8 bits."""
    return [
        spec
        for spec in conv_layers(cfg)
        if min(spec.in_channels, spec.out_channels) >= MIN_CHANNELS and spec.resolution >= MIN_RESOLUTION
    ]


class Samples:
    """Latents to measure on, and what a network holds on them. Each is computed when a plan first asks for it.

    Args:
        weights: The generator.
        mapping: The file of the mapping network.
        progress: Called while the network runs.
    """

    def __init__(self, weights: Stylegan1Weights, mapping: Path, progress: Progress | None = None) -> None:
        self.weights, self.progress = weights, progress
        self._mapping = mapping

    @cached_property
    def calibration(self) -> Calibration:
        """The measurements of the network as it is."""
        return self._calibrate(NetworkPlan())

    @cached_property
    def unit_calibration(self) -> Calibration:
        """The measurements of the network with signals of unit size."""
        return self._calibrate(NetworkPlan(unit_signals=True))

    @cached_property
    def latents(self) -> list[np.ndarray]:
        """The latents of the search."""
        return search_latents(self.weights.config, self._mapping)

    @cached_property
    def reference(self) -> np.ndarray:
        """Their images in float32."""
        return synthesize(synthesis_model(self.weights), self.latents)

    def _calibrate(self, plan: NetworkPlan) -> Calibration:
        latents = calibration_latents(self.weights.config, self._mapping)
        return calibrate(self.weights, latents, plan, self.progress)


def calibrate(
    weights: Stylegan1Weights, batches: Sequence[np.ndarray], plan: NetworkPlan, progress: Progress | None = None
) -> Calibration:
    """Measure every layer that can run in 8 bits, by two runs of a float32 network over the same latents.

    The first run finds the peaks of channels, and so the scales to migrate. The second one measures the tensors as they are
    with these scales.

    Args:
        weights: The generator.
        batches: ws `[n, num_ws, w_dim]`. All activations of one batch must fit in memory.
        plan: The plan of the network, without 8 bits.
        progress: Called after each batch.
    """
    specs = int8_layers(weights.config)
    if not specs:
        return {}
    names = [f"{spec.name}.{tensor}" for spec in specs for tensor in ("in", "conv")]
    session = cpu_session(synthesis_model(weights, plan, "const", "float", [spec.name for spec in specs]))
    runs, total = 0, 2 * len(batches)

    def tensors() -> Iterator[dict[str, np.ndarray]]:
        nonlocal runs
        for ws in batches:
            yield dict(zip(names, session.run(names, {"ws": ws}), strict=True))
            runs += 1
            if progress is not None:
                progress("calibrate 8 bits", runs, total)

    statistics: dict[str, ChannelStatistics] = defaultdict(ChannelStatistics)
    for values in tensors():
        for spec in specs:
            statistics[spec.name].add(values[f"{spec.name}.in"])

    samples = sum(len(ws) for ws in batches)
    graph = SynthesisGraph(weights, plan, "const")
    calibration, moments, output_scales = {}, {}, {}
    for spec in specs:
        scale = input_scale(statistics[spec.name], weights.arrays[f"synthesis.{spec.name}.weight"])
        moments[spec.name] = PatchMoments(spec.in_channels, samples)
        migration = Migration(scale, np.ones(spec.out_channels))
        ratio = negative_ratio(statistics[spec.name], scale)
        calibration[spec.name] = LayerCalibration(migration, ratio, GptqRounder(moments[spec.name]))
        output_scales[spec.name] = _output_scale(graph, spec, scale)

    for values in tensors():
        for name, layer in calibration.items():
            inputs = values[f"{name}.in"] / layer.migration.input_scale[:, None, None].astype(np.float32)
            moments[name].add(inputs)
            layer.input.add(inputs)
            outputs = values[f"{name}.conv"] * output_scales[name][:, None, None]
            layer.output.add(outputs)
            layer.dynamic_output.add(outputs / dynamic_range(inputs, layer.negative_ratio))
            layer.symmetric_dynamic_output.add(outputs / dynamic_range(inputs, 1.0))
    return calibration


def _output_scale(graph: SynthesisGraph, spec: LayerSpec, scale: np.ndarray) -> np.ndarray:
    """`[O]`, the outputs with these input scales relative to those without. Unit weights change with the scales."""
    if not graph.plan.unit_signals:
        return np.ones(spec.out_channels, np.float32)
    weight = graph.kernel(spec)
    norms = [np.sqrt(np.square(w).sum((1, 2, 3))) for w in (weight, weight * scale[None, :, None, None])]
    return np.where(norms[1] > 0, norms[0] / np.where(norms[1] > 0, norms[1], 1), 1).astype(np.float32)


# --- plans -----------------------------------------------------------------------------------------------------------


def int8_plan(samples: Samples) -> NetworkPlan:
    """The plan of `synthesis.int8.onnx`, for ONNX Runtime: it has 8-bit convolutions, but no transposed ones."""
    return _plan(samples, "phases", symmetric=False, outputs="all")


def backend_plans(samples: Samples, backend: str) -> dict[str, NetworkPlan]:
    """The plans of the files of a backend by their names. Empty where the canonical file serves it."""
    if backend == "openvino":
        plan = _plan(samples, "transposed", symmetric=True, outputs="up")
        return {backend: plan, f"{backend}{NO_VNNI}": plan.with_limited_pairs()}
    if backend == "tensorrt-rtx":
        return {backend: _float16_plan(samples)}
    return {}


def _plan(samples: Samples, up_form: UpForm, symmetric: bool, outputs: Literal["all", "up"]) -> NetworkPlan:
    """Every calibrated layer in 8 bits, the rest in float32.

    Args:
        samples: The measurements.
        up_form: The form of upsampling layers.
        symmetric: Whether activations have zero point 0, which OpenVINO requires.
        outputs: The convolutions whose output is quantised, too: all, or those that upsample. ONNX Runtime runs a convolution
            in int8 only with a quantised output.
    """
    quantized = {}
    for spec in int8_layers(samples.weights.config):
        measured = samples.calibration[spec.name]
        is_dynamic = spec.resolution // spec.up <= MAX_DYNAMIC_RANGE_RESOLUTION
        int8 = measured.int8(symmetric, outputs == "all" or spec.up == 2, is_dynamic)
        quantized[spec.name] = QuantizedLayer(measured.migration.input_scale, int8)
    return NetworkPlan(quantized, up_form=up_form)


def _float16_plan(samples: Samples) -> NetworkPlan:
    """Symmetric int8 with fixed ranges and float outputs, as TensorRT-RTX takes it. The rest is float16."""
    quantized = {
        name: QuantizedLayer(layer.migration.input_scale, layer.int8(symmetric=True, quantize_output=False))
        for name, layer in samples.unit_calibration.items()
    }
    return NetworkPlan(quantized, float16=True, unit_signals=True, up_form="phases")


# --- search ----------------------------------------------------------------------------------------------------------


def find_sensitive_layers(samples: Samples, plan: NetworkPlan, target_db: float, name: str) -> Sensitivity:
    """Search the quantised layers of a plan for those to leave out of 8 bits (`sensitivity.search_layers`).

    Images are judged on the backend that the plan is for, where it runs ONNX files here. Others are judged on ONNX Runtime,
    by the numbers that the plan rounds.

    Args:
        samples: The latents and their images.
        plan: With every candidate in 8 bits.
        target_db: The mean PSNR to reach, in dB.
        name: The plan's name: a backend, or `CANONICAL`.
    """
    backend = "onnxruntime" if name == CANONICAL else name.removesuffix(NO_VNNI)
    on_onnxruntime = NetworkPlan(plan.quantized, unit_signals=plan.unit_signals, up_form="phases")
    runs_here = runs_network_files(backend, "int8")

    def images_without(left_out: Sequence[str]) -> np.ndarray:
        chosen = (plan if runs_here else on_onnxruntime).without_quantization(left_out)
        model = synthesis_model(samples.weights, chosen)
        return synthesize_on(backend, "int8", model, samples.latents) if runs_here else synthesize(model, samples.latents)

    def images_of_one(layer: str) -> np.ndarray:
        others = [other for other in plan.quantized_layers if other != layer]
        model = synthesis_model(samples.weights, on_onnxruntime.without_quantization(others))
        return synthesize(model, samples.latents[:SAMPLES_PER_LAYER])

    progress = samples.progress
    return search_layers(
        {spec.name: float(spec.macs) for spec in conv_layers(samples.weights.config) if spec.name in plan.quantized},
        images_without,
        images_of_one,
        samples.reference,
        target_db,
        None if progress is None else partial(progress, f"search int8 layers {name}".strip()),
    )
