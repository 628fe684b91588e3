"""Which plan a backend gets before anything was measured on the machine: forms that its compiler makes the most of.

The canonical file of a precision is for everyone: operator nodes for a runtime with the plugins, function bodies for the
others. What a backend runs better in another form gets a file of its own beside it.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from stylert.export.plan import Form, Int8Scales, LayerPlan, Migration, NetworkPlan, half_plan
from stylert.train.checkpoint import GeneratorWeights


def canonical_plan(weights: GeneratorWeights, precision: str, int8: NetworkPlan | None) -> NetworkPlan:
    """The plan of `synthesis.<precision>.onnx`; `int8` is what `quantize.calibrate` found."""
    if precision == "int8":
        assert int8 is not None
        return int8
    return half_plan(weights) if precision == "fp16" else NetworkPlan()


def backend_plan(weights: GeneratorWeights, precision: str, backend: str, int8: NetworkPlan | None) -> NetworkPlan | None:
    """The plan of `synthesis.<precision>.<backend>.onnx`, or None where the canonical file is the best that is known."""
    if backend == "tensorrt-rtx" and precision == "fp16":
        # Its compiler keeps activations channels last, and fuses everything pointwise between two convolutions.
        return half_plan(weights, "transposed", channels_last=True)
    if backend == "tensorrt-rtx" and precision == "int8":
        assert int8 is not None
        return _half_int8(weights, int8)
    if backend == "openvino" and precision == "int8":
        assert int8 is not None
        return _inputs_only(int8, "transposed")
    return None


def _inputs_only(int8: NetworkPlan, form: Form) -> NetworkPlan:
    """The same scales in another form, with nothing quantised behind a convolution: only ONNX Runtime needs that."""
    layers = {}
    for name, plan in int8.layers.items():
        scales = None if plan.int8 is None else Int8Scales(plan.int8.in_scale)
        layers[name] = dataclasses.replace(plan, form=form, int8=scales)
    return NetworkPlan(layers)


def _half_int8(weights: GeneratorWeights, int8: NetworkPlan) -> NetworkPlan:
    """The same with everything around the convolutions in float16, whose range the weights' steps must fit.

    TensorRT-RTX has no transposed convolution in 8 bits.
    """
    layers, half = {}, half_plan(weights, "polyphase")
    for name, plan in _inputs_only(int8, "polyphase").layers.items():
        if plan.int8 is None or plan.migration is None:
            layers[name] = half.layers[name]
            continue
        weight = np.abs(weights.arrays[f"synthesis.{name}.weight"] * plan.migration.in_equal[None, :, None, None])
        peak = weight.max((1, 2, 3)).astype(np.float64)
        migration = Migration(plan.migration.in_equal, np.where(peak > 0, peak, 1.0))
        layers[name] = LayerPlan("polyphase", migration, plan.int8)
    return NetworkPlan(layers, half=True, channels_last=True)
