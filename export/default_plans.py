"""Default plans: which forms each backend gets before `stylert tune` measures on the machine.

The canonical file of a precision serves every backend: those with the plugins run its operator nodes, the others inline
the function bodies. A backend that is faster with other forms gets a file of its own beside it.
"""

from __future__ import annotations

from dataclasses import replace

from stylert.export.network_plan import LayerPlan, NetworkPlan, conv_layers, float16_plan, float32_plan
from stylert.export.quantization.calibration import Calibration
from stylert.export.quantization.quantized_plans import float16_fp8_plan, float16_int8_plan, int8_plan
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import GeneratorConfig

#: Precisions that need a calibration.
EIGHT_BIT = ("int8", "fp8")

#: From this resolution on, activations do not fit a CPU's caches, and ONNX Runtime gains from folded modulation
#: (docs/decisions/export-onnxruntime-int8.md).
MIN_FOLD_MODULATION_RESOLUTION = 512

#: Up to this resolution MNN gains from separate phases. In larger images, interleaving them costs what the products save
#: (docs/decisions/runtime-mnn.md).
MAX_SEPARATE_PHASES_RESOLUTION = 256


def canonical_plan(weights: GeneratorWeights, precision: str, calibration: Calibration | None) -> NetworkPlan:
    """The plan of `synthesis.<precision>.onnx`. int8 and fp8 need a calibration."""
    if precision == "int8":
        return int8_plan(weights.config, _required(calibration))
    if precision == "fp8":
        return float16_fp8_plan(weights, _required(calibration))
    return float16_plan(weights) if precision == "fp16" else NetworkPlan()


def backend_plan(
    weights: GeneratorWeights, precision: str, backend: str, calibration: Calibration | None
) -> NetworkPlan | None:
    """The plan of `synthesis.<precision>.<backend>.onnx`, or None where no plan beats the canonical file."""
    if backend in ("tensorrt", "tensorrt-rtx") and precision == "fp16":
        return _tensorrt_float16_plan(weights)
    if backend in ("tensorrt", "tensorrt-rtx") and precision == "int8":
        return float16_int8_plan(weights, _required(calibration))
    if backend == "onnxruntime" and precision == "int8":
        return _onnxruntime_int8_plan(weights.config, _required(calibration))
    if backend == "mnn" and precision == "fp32":
        return _mnn_float32_plan(weights.config)
    if backend == "openvino" and precision == "int8":
        return _openvino_int8_plan(weights.config, _required(calibration))
    if backend == "openvino" and precision in ("fp32", "bf16"):
        return replace(float32_plan(weights.config, "transposed", "conv"), per_sample_bias=True, split_styles=True)
    return None


def plan_without_vnni(plan: NetworkPlan, precision: str, backend: str) -> NetworkPlan | None:
    """The plan of `synthesis.<precision>.<backend>-no-vnni.onnx`, or None where the backend needs no such file.

    Without VNNI, OpenVINO has exact 8-bit arithmetic for weights of limited pairs alone. ONNX Runtime makes its weights
    unsigned there, which is exact.

    Args:
        plan: The backend's plan for other processors.
        precision: The precision.
        backend: The backend's name.
    """
    return plan.with_limited_pairs() if (precision, backend) == ("int8", "openvino") else None


def _tensorrt_float16_plan(weights: GeneratorWeights) -> NetworkPlan:
    """TensorRT-RTX keeps activations channels last, and fuses everything pointwise between two convolutions.

    TensorRT gets the same plan. Nobody has measured there whether another one is faster.

    The last torgb takes the 1x1-convolution form. Its style is then applied by the kernel that writes the activation.
    Other torgbs share that activation with the next convolution, so this form would write a second tensor.
    """
    plan = float16_plan(weights, "transposed", "matmul_nhwc")
    last_rgb = weights.config.layers()[-1]
    return replace(plan, layers={**plan.layers, last_rgb.name: LayerPlan("conv")})


def _mnn_float32_plan(cfg: GeneratorConfig) -> NetworkPlan:
    """MNN has Winograd's algorithm for square kernels, so for one of the four phases, but not for transposed convolutions."""
    plan = float32_plan(cfg, "transposed", "conv")
    small = [spec for spec in conv_layers(cfg) if spec.up == 2 and spec.resolution <= MAX_SEPARATE_PHASES_RESOLUTION]
    return replace(plan, layers={**plan.layers, **{spec.name: LayerPlan("separate_phases") for spec in small}})


def _onnxruntime_int8_plan(cfg: GeneratorConfig, calibration: Calibration) -> NetworkPlan | None:
    """ONNX Runtime fuses nothing pointwise, so in large images folded modulation saves time.

    Its dequantisation by planes writes channels first, hence the form of torgb.
    """
    if cfg.resolution < MIN_FOLD_MODULATION_RESOLUTION:
        return None
    return int8_plan(cfg, calibration, min_fold_modulation=MIN_FOLD_MODULATION_RESOLUTION, rgb_form="matmul")


def _openvino_int8_plan(cfg: GeneratorConfig, calibration: Calibration) -> NetworkPlan:
    """OpenVINO has 8-bit transposed convolutions, and their output is quantised.

    The FIR behind them then reads 8 bits and not float32. Behind other convolutions OpenVINO fuses no quantisation.
    """
    plan = int8_plan(cfg, calibration, "transposed", symmetric=True, outputs="up", rgb_form="conv")
    return replace(plan, per_sample_bias=True, split_styles=True)


def _required(calibration: Calibration | None) -> Calibration:
    if calibration is None:
        raise ValueError("a plan with 8 bits needs a calibration")
    return calibration
