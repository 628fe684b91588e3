"""Lower bounds of a network's time: at given peak rates no program that moves and multiplies as much is faster.

There are two bounds, both made of the roofline in `core/roofline.py`:

- layer by layer: each layer reads and writes every operand once, and waits for the layer before it.
- fused: torgb is computed within the convolution before it, and the last activations are never written.

Two things can be faster than either bound: activations that stay in a cache, and algorithms with fewer multiplications
(Winograd).
"""

from __future__ import annotations

from stylert.benchmarks.machine.layer_operators import LayerOperator, layer_operators
from stylert.core.roofline import PeakRates, lower_bound_ms
from stylert.models.network_config import BaseGeneratorConfig
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.plugins.triton.tiles import ITEMSIZE

#: The format of the products, by precision.
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "fp8": "fp8"}
FLOAT_PRECISIONS = ("fp32", "fp16", "bf16")
#: The GPU kernels keep activations in this format beside 8-bit weights.
ACTIVATION_DTYPES = {"int8": "float16", "fp8": "float16"}
#: Below this resolution int8 networks compute in floating point.
INT8_FROM = 8


def layer_lower_bounds(config: BaseGeneratorConfig, precision: str, batch: int, rates: PeakRates) -> dict[str, float]:
    """The least time of each layer.

    In int8 the 3x3 convolutions from 8 px up count in 8 bits, and other layers in the fastest floating-point format.

    Returns:
        Milliseconds by layer name; empty for other networks than StyleGAN2, and where `rates` lack a format that the
        precision needs.
    """
    if not isinstance(config, GeneratorConfig):
        return {}
    bounds = {}
    for operator in layer_operators(config, config.block_resolutions):
        if operator.name == "bias_act":
            continue  # part of the convolution before it
        dtype = _layer_dtype(operator, precision, rates)
        if dtype is None:
            return {}
        bounds[operator.layer] = operator.lower_bound_ms(batch, dtype, rates)
    return bounds


def network_lower_bound(config: BaseGeneratorConfig, precision: str, batch: int, rates: PeakRates) -> float | None:
    """The sum of the layers' lower bounds in ms; None where `layer_lower_bounds` has none."""
    bounds = layer_lower_bounds(config, precision, batch, rates)
    return sum(bounds.values()) if bounds else None


def fused_network_lower_bound(config: GeneratorConfig, precision: str, batch: int, rates: PeakRates) -> float:
    """The least time of the whole network on a GPU, with torgb fused into the convolutions.

    Activations beside 8-bit weights are float16, and the image is written as uint8.

    Returns:
        Milliseconds of one batch.
    """
    dtype = DTYPES[precision]
    activation_bytes = ITEMSIZE[ACTIVATION_DTYPES.get(dtype, dtype)]
    convs = [spec for spec in config.layers() if spec.kind == "conv"]
    read = sum(batch * s.in_channels * (s.height // s.up) * (s.width // s.up) for s in convs)
    written = sum(batch * s.out_channels * s.height * s.width for s in convs[:-1])
    weights = sum(s.in_channels * s.out_channels * s.kernel**2 for s in convs)
    images = batch * config.img_channels * config.height * config.width
    moved = (read + written) * activation_bytes + weights * ITEMSIZE[dtype] + images
    return lower_bound_ms(2 * batch * config.macs(), moved, dtype, rates)


def _layer_dtype(operator: LayerOperator, precision: str, rates: PeakRates) -> str | None:
    """The format of `rates` in which a layer computes; None where there is none."""
    if precision == "int8":
        is_conv = operator.name == "modulated_conv2d" and operator.spec.kind == "conv"
        if is_conv and operator.spec.resolution >= INT8_FROM and "int8" in rates.tflops:
            return "int8"
        floats = [DTYPES[name] for name in FLOAT_PRECISIONS if DTYPES[name] in rates.tflops]
        return max(floats, key=rates.tflops.__getitem__, default=None)
    # A CPU computes fp8 networks in float32, between roundings to fp8.
    dtype = DTYPES[precision] if precision in FLOAT_PRECISIONS else "float32"
    if dtype in rates.tflops:
        return dtype
    # A CPU without float16 computes fp16 networks in float32.
    return "float32" if "float32" in rates.tflops else None
