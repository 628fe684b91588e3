"""The arithmetic floor of a whole network: no machine with these ceilings is faster, whatever the code.

The floor of a layer is the larger of its arithmetic at the rate of a matrix product and its memory traffic at the rate of a
copy, every operand moved once (`roofline.py`); a network's is the sum over its layers, since each needs the one before. Two
things may beat it and are not counted: activations that stay in a cache, and algorithms with fewer multiplications
(Winograd). In int8 the 3x3 convolutions from 8 px up count in 8 bits, and the rest in the best floating-point format.
"""

from __future__ import annotations

from stylert.benchmarks.machine.roofline import Case, Ceiling, cases
from stylert.models.stylegan2.config import GeneratorConfig

#: Below this resolution int8 networks compute in floating point.
INT8_FROM = 8
TYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def layer_floors(config: GeneratorConfig, precision: str, batch: int, ceiling: Ceiling) -> dict[str, float]:
    """Milliseconds by layer name; empty where the ceiling has no rate for the precision."""
    found = {}
    for case in cases(config, config.block_resolutions):
        if case.kernel == "bias_act":
            continue  # part of the convolution before it
        dtype = _dtype(case, precision, ceiling)
        if dtype is None:
            return {}
        found[case.layer] = ceiling.floor_ms(case, batch, dtype)
    return found


def network_floor(config: GeneratorConfig, precision: str, batch: int, ceiling: Ceiling) -> float | None:
    """Milliseconds of one call; None where the ceiling has no rate for the precision."""
    layers = layer_floors(config, precision, batch, ceiling)
    return sum(layers.values()) if layers else None


def _dtype(case: Case, precision: str, ceiling: Ceiling) -> str | None:
    """In which of the ceiling's formats a layer computes."""
    if precision == "int8":
        conv = case.kernel == "modulated_conv2d" and case.spec.kind == "conv" and case.spec.resolution >= INT8_FROM
        if conv and "int8" in ceiling.tflops:
            return "int8"
        floats = [d for d in TYPES.values() if d in ceiling.tflops]
        return max(floats, key=ceiling.tflops.__getitem__, default=None)
    wanted = TYPES.get(precision, "float32")  # fp8 runs on a CPU between roundings of float32
    if wanted in ceiling.tflops:
        return wanted
    # A CPU without float16 computes such a network in float32.
    return "float32" if "float32" in ceiling.tflops else None
