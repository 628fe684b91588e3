"""Which plan a backend gets before anything was measured on the machine: forms that its compiler makes the most of.

The canonical file of a precision is for everyone: operator nodes for a runtime with the plugins, function bodies for the
others. What a backend runs better in another form gets a file of its own beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from stylert.export.plan import Fp8Scale, Int8Steps, LayerPlan, Migration, NetworkPlan, half_plan, plain_plan
from stylert.export.quantization.calibration import Calibration, int8_plan
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import GeneratorConfig

#: Where activations no longer fit a CPU's caches, ONNX Runtime gains by steps that hold style and demodulation, 1.08 to 1.13 times
#: as fast at 1024 px. In smaller images the transpositions around them cost as much.
MIN_SCALED_RESOLUTION = 512


def canonical_plan(weights: GeneratorWeights, precision: str, calibration: Calibration | None) -> NetworkPlan:
    """The plan of `synthesis.<precision>.onnx`; int8 and fp8 need what `quantize.calibrate` found."""
    if precision == "int8":
        assert calibration is not None
        return int8_plan(weights.config, calibration)
    if precision == "fp8":
        assert calibration is not None
        return _half_eight_bit(weights, {n: (c.migration, c.fp8()) for n, c in calibration.items()})
    return half_plan(weights) if precision == "fp16" else NetworkPlan()


def backend_plan(
    weights: GeneratorWeights, precision: str, backend: str, calibration: Calibration | None
) -> NetworkPlan | None:
    """The plan of `synthesis.<precision>.<backend>.onnx`, or None where the canonical file is the best that is known."""
    if backend == "tensorrt-rtx" and precision == "fp16":
        # Its compiler keeps activations channels last, and fuses everything pointwise between two convolutions.
        return _last_rgb_as_conv(weights.config, half_plan(weights, "transposed", "matmul_nhwc"))
    if backend in ("tensorrt", "tensorrt-rtx") and precision == "int8":  # both take symmetric steps only
        assert calibration is not None
        steps = {n: c.steps(symmetric=True, outputs=False) for n, c in calibration.items()}
        return _half_eight_bit(weights, {n: (c.migration, steps[n]) for n, c in calibration.items()})
    if backend == "onnxruntime" and precision == "int8" and weights.config.resolution >= MIN_SCALED_RESOLUTION:
        assert calibration is not None
        # It fuses nothing pointwise, so every pass counts. What is dequantised plane by plane lies channels first.
        return int8_plan(weights.config, calibration, min_scaled=MIN_SCALED_RESOLUTION, rgb="matmul")
    if backend == "openvino" and precision in ("fp32", "bf16"):
        return replace(plain_plan(weights.config, "transposed", "conv"), live_bias=True)
    if backend == "openvino" and precision == "int8":
        assert calibration is not None
        # It has transposed convolutions in 8 bits; their FIR is in 8 bits, too: unquantised it would be handed float32. Behind the
        # other convolutions it fuses no quantisation, and needs none.
        plan = int8_plan(weights.config, calibration, "transposed", symmetric=True, outputs="up", rgb="conv")
        return replace(plan, live_bias=True)
    return None


def _last_rgb_as_conv(cfg: GeneratorConfig, plan: NetworkPlan) -> NetworkPlan:
    """What only torgb reads can have its style from the pass that writes it; where the next convolution reads it, too, that would be a
    second tensor to write.
    """
    return replace(plan, layers={**plan.layers, cfg.layers()[-1].name: LayerPlan("conv")})


def _half_eight_bit(weights: GeneratorWeights, layers: Mapping[str, tuple[Migration, Int8Steps | Fp8Scale]]) -> NetworkPlan:
    """8 bits with everything around the convolutions in float16, whose range the weights' steps must fit.

    TensorRT-RTX has no transposed convolution in 8 bits. torgb stays in float16.
    """
    plans = dict(half_plan(weights, "polyphase").layers)
    for name, (found, eight_bit) in layers.items():
        if name not in plans:
            continue
        weight = np.abs(weights.arrays[f"synthesis.{name}.weight"] * found.in_equal[None, :, None, None])
        peak = weight.max((1, 2, 3)).astype(np.float64)
        migration = Migration(found.in_equal, np.where(peak > 0, peak, 1.0), found.in_power)
        plans[name] = LayerPlan("polyphase", migration, eight_bit)
    return NetworkPlan(plans, half=True, rgb="matmul_nhwc")
