"""The decoder as an ONNX graph: the residual of an image by a small network, correlated with one pattern per bit.

Its steps are those of `stylert.train.watermark.decoder`. A file of somebody else gives weights alone: the graph that runs is
always the one of this module. `margins` adds zeros around the residual, so that the patterns are tried at every place.

Files of format version 2 have a filter of fine differences in place of the network. They are still read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

OPSET, IR_VERSION = 17, 8
#: The network, as in `stylert.train.watermark.residual`.
DILATIONS, SLOPE, MAX_CHANNELS = (1, 2, 1, 2, 1), 0.1, 64
#: The filter of format version 2: half its width, and the bound of a difference.
RADIUS, BOUND = 6, 0.015
MIN_SIDE, MAX_SIDE, MAX_BITS = 8, 128, 128
IMAGE, MARGINS, OUTPUT = "image", "margins", "bits"
#: The weights of every decoder with their number of axes. The last two whiten the outputs of each view: the graph keeps them and
#: does not use them.
SHARED = {"patterns": 3, "bias": 1, "view_matrices": 3, "view_means": 2}
#: The weights of the network, and of the filter of format version 2.
FILTER = "difference"
NETWORK = {f"residual.{i}.{part}": axes for i in range(len(DILATIONS)) for part, axes in (("weight", 4), ("bias", 1))}


def decoder_model(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> Any:
    """The `ModelProto` of a decoder.

    Inputs are `image`, float32 `[N, 3, h, w]` in [-1, 1], and `margins`, int64 `[8]`: rows and columns of zeros, as the
    operator Pad takes them. The output `bits`, float32 `[N, bits, places down, places across]`, has one number for each bit
    and each place of the patterns.

    Args:
        arrays: Weights by name, as `check_weights` demands them.
        metadata: Texts to keep in the file.

    Raises:
        ValueError: The weights are not those of a decoder.
    """
    from onnx import TensorProto, helper, numpy_helper

    check_weights(arrays)
    zero = {"zero": np.array(0, np.float32)}
    constants = {**arrays, "patterns": arrays["patterns"][:, None], **zero}
    nodes, more = _filter_nodes() if FILTER in arrays else _network_nodes()
    constants |= more
    nodes += [
        helper.make_node("Pad", ["residual", MARGINS, "zero"], ["placed"], mode="constant"),
        helper.make_node("Conv", ["placed", "patterns", "bias"], [OUTPUT]),
    ]
    inputs = [
        helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, ["N", 3, "h", "w"]),
        helper.make_tensor_value_info(MARGINS, TensorProto.INT64, [8]),
    ]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", len(arrays["bias"]), "down", "across"])
    weights = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "watermark decoder", inputs, [output], weights)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, producer_name="stylert", opset_imports=opsets, ir_version=IR_VERSION)
    helper.set_model_props(model, dict(metadata))
    return model


def _network_nodes() -> tuple[list[Any], dict[str, np.ndarray]]:
    """The nodes from the image to its residual, and their constants."""
    from onnx import helper

    radius, tensor = sum(DILATIONS), "wide"
    nodes = [helper.make_node("Pad", [IMAGE, "border"], [tensor], mode="edge")]
    for i, dilation in enumerate(DILATIONS):
        is_last = i == len(DILATIONS) - 1
        names, output = [tensor, f"residual.{i}.weight", f"residual.{i}.bias"], "residual" if is_last else f"layer{i}"
        nodes.append(helper.make_node("Conv", names, [output], dilations=[dilation] * 2))
        if not is_last:
            tensor = f"active{i}"
            nodes.append(helper.make_node("LeakyRelu", [output], [tensor], alpha=SLOPE))
    return nodes, {"border": np.array([0, 0, radius, radius] * 2, np.int64)}


def _filter_nodes() -> tuple[list[Any], dict[str, np.ndarray]]:
    """The same for format version 2: differences of brightness from its mean around a pixel, bounded."""
    from onnx import helper

    nodes = [
        helper.make_node("Pad", [IMAGE, "border"], ["wide"], mode="edge"),
        helper.make_node("Conv", ["wide", FILTER], ["differences"]),
        helper.make_node("Mul", ["differences", "steepness"], ["steep"]),
        helper.make_node("Tanh", ["steep"], ["residual"]),
    ]
    border: np.ndarray = np.array([0, 0, RADIUS, RADIUS] * 2, np.int64)
    steepness: np.ndarray = np.array(1 / BOUND, np.float32)
    return nodes, {"border": border, "steepness": steepness}


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """The weights of a decoder's `ModelProto`, checked.

    Raises:
        ValueError: They are not those of a decoder, or too large.
    """
    from onnx import TensorProto, numpy_helper

    arrays = {}
    for tensor in model.graph.initializer:
        if tensor.name not in (*SHARED, *NETWORK, FILTER):
            continue  # a constant of the graph
        if tensor.data_type != TensorProto.FLOAT or tensor.external_data or tensor.name in arrays:
            raise ValueError("its weights are not those of a decoder")
        if any(length < 1 for length in tensor.dims) or math.prod(tensor.dims) > MAX_BITS * MAX_SIDE**2:
            raise ValueError("its weights are too large")
        arrays[tensor.name] = numpy_helper.to_array(tensor)
    if "patterns" in arrays and arrays["patterns"].ndim == 4:
        arrays["patterns"] = arrays["patterns"][:, 0]
    check_weights(arrays)
    return arrays


def check_weights(arrays: Mapping[str, np.ndarray]) -> None:
    """Check that arrays are the weights of a decoder: names, shapes that fit each other, and finite values.

    Raises:
        ValueError: They are not.
    """
    expected = SHARED | ({FILTER: 4} if FILTER in arrays else NETWORK)
    if set(arrays) != set(expected) or any(arrays[name].ndim != count for name, count in expected.items()):
        raise ValueError("its weights are not those of a decoder")
    bits, height, width = arrays["patterns"].shape
    if height != width or not MIN_SIDE <= height <= MAX_SIDE or not 1 <= bits <= MAX_BITS:
        raise ValueError("its patterns are not square, or too large or too many")
    is_whole = _is_whole_filter(arrays) if FILTER in arrays else _is_whole_network(arrays)
    if arrays["bias"].shape != (bits,) or not is_whole:
        raise ValueError("its weights have wrong shapes")
    views = len(arrays["view_means"])
    if arrays["view_matrices"].shape != (views, bits, bits) or arrays["view_means"].shape != (views, bits):
        raise ValueError("the weights of its views have wrong shapes")
    if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("its weights are not finite numbers of float32")


def _is_whole_filter(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the filter has its size."""
    return arrays[FILTER].shape == (1, 3, 2 * RADIUS + 1, 2 * RADIUS + 1)


def _is_whole_network(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the convolutions follow each other from RGB to one channel, and none is too wide."""
    channels = 3
    for i in range(len(DILATIONS)):
        weight, bias = arrays[f"residual.{i}.weight"], arrays[f"residual.{i}.bias"]
        outputs = len(bias)
        if weight.shape != (outputs, channels, 3, 3) or outputs > MAX_CHANNELS:
            return False
        channels = outputs
    return channels == 1
