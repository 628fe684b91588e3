"""The form of the last upsampling layers that OpenVINO gets on processors with AMX.

A plan for OpenVINO writes an upsampling layer as a stride-2 transposed convolution and a FIR of 16 taps. With few channels
both are slow: the matrix tiles are half empty, and the FIR is limited by its additions. This module folds the FIR along x
into the weights. The layer is then a transposed convolution with stride 2 along y alone. It has two output channels for each
channel, one for even and one for odd x, and the FIR along y has 4 taps. OpenVINO keeps channels last, so the two are
neighbouring pixels already, and interleaving them moves nothing.

The multiplications double, and the images stay the same but for rounding (docs/decisions/export-openvino-passes.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stylert.core.machine.processor_class import AMX, processor_class

if TYPE_CHECKING:
    import onnx

#: The most output channels of a layer that gets the form. With more, the doubled multiplications cost what the FIR saves.
MAX_CHANNELS = 32
#: The form in words. Engines are known by it.
FORM = f"phases along x in layers of up to {MAX_CHANNELS} channels"


def form_here(arithmetic: str) -> str | None:
    """`FORM` if this processor gains from it in this arithmetic of OpenVINO, or None."""
    return FORM if arithmetic == "bf16" and processor_class() == AMX else None


def fold_along_x(model: onnx.ModelProto, max_channels: int = MAX_CHANNELS) -> list[str]:
    """Give the form to all layers of a network of plain operators that can have it.

    Args:
        model: The network. It is changed in place.
        max_channels: The most output channels of such a layer.

    Returns:
        The names of the transposed convolutions.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}
    folded = []
    for node in list(graph.node):
        following = readers.get(node.output[0], [])
        if node.op_type != "ConvTranspose" or len(following) != 1 or node.output[0] in outputs:
            continue
        fir = following[0]
        if not (_is_stride_2(node) and _is_fir(fir) and {node.input[1], fir.input[1]} <= set(constants)):
            continue
        weight, taps = (numpy_helper.to_array(constants[n.input[1]]) for n in (node, fir))
        along = _factors(taps) if weight.dtype == taps.dtype == np.float32 else None
        if weight.shape[1] > max_channels or weight.shape[2:] != (3, 3) or along is None:
            continue
        along_y, along_x = along
        channels = weight.shape[1]
        new = _Nodes(node.name or node.output[0])
        kernel = new.constant("weight_by_phase", _phase_kernels(weight, along_x))
        y = new.add("ConvTranspose", [node.input[0], kernel], "phases", strides=[2, 1], pads=[0, 1, 0, 1])
        y = new.add("Transpose", [y], "channels_last", perm=[0, 2, 3, 1])
        y = new.add("Reshape", [y, new.constant("pixels", np.array([0, 0, -1, channels]))], "interleaved")
        y = new.add("Transpose", [y], "channels_first", perm=[0, 3, 1, 2])
        column = new.constant("fir_along_y", np.tile(along_y[:, None], (channels, 1, 1, 1)).astype(np.float32))
        new.add("Conv", [y, column, *fir.input[2:]], "filtered", pads=[1, 0, 1, 0], group=channels)
        new.nodes[0].name, new.nodes[-1].name = node.name, fir.name
        new.nodes[-1].output[0] = fir.output[0]
        # All inputs of the FIR but the convolution's output are constants or come from earlier nodes.
        place = list(graph.node).index(fir)
        for i, added in enumerate(new.nodes):
            graph.node.insert(place + i, added)
        graph.node.remove(node)
        graph.node.remove(fir)
        graph.initializer.extend(new.initializers)
        folded.append(node.name)
    return folded


def _is_stride_2(node: onnx.NodeProto) -> bool:
    attributes = _attributes(node)
    plain = attributes.get("group", 1) == 1 and attributes.get("dilations", [1, 1]) == [1, 1]
    no_padding = attributes.get("pads", [0] * 4) == [0] * 4 and attributes.get("output_padding", [0, 0]) == [0, 0]
    return attributes.get("strides") == [2, 2] and plain and no_padding and len(node.input) == 2


def _is_fir(node: onnx.NodeProto) -> bool:
    """Whether a node is a convolution with stride 1 and a padding of one pixel. `_factors` checks its weights."""
    attributes = _attributes(node)
    in_place = attributes.get("strides", [1, 1]) == [1, 1] and attributes.get("dilations", [1, 1]) == [1, 1]
    return node.op_type == "Conv" and in_place and attributes.get("pads") == [1] * 4 and attributes.get("group", 1) > 1


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    import onnx

    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: list(value) if isinstance(value, (list, tuple)) else value for name, value in values.items()}


def _factors(taps: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The FIR along y and along x, float64, of weights `[C, 1, 4, 4]`. None if channels differ or it is no outer product."""
    if taps.shape[1:] != (1, 4, 4) or (taps != taps[:1]).any():
        return None
    plane = taps[0, 0].astype(np.float64)
    total = plane.sum()
    if total == 0:
        return None
    along_y, along_x = plane.sum(1) / total, plane.sum(0)
    return (along_y, along_x) if np.allclose(np.outer(along_y, along_x), plane, rtol=1e-6, atol=0) else None


def _phase_kernels(weight: np.ndarray, along_x: np.ndarray) -> np.ndarray:
    """`[I, 2 O, 3, 3]` from `[I, O, 3, 3]`: the kernels for even and for odd x.

    The pixel at x = 2 q + p is the sum of tap t times the transposed convolution at x + t - 1. In it, the input q + d is
    multiplied by the weight at p + t - 1 - 2 d. So a pixel reads the inputs q - 1, q and q + 1, which a transposed
    convolution of stride 1 multiplies by its weights at 2, 1 and 0.
    """
    phases = np.zeros((2, *weight.shape))
    for phase in range(2):
        for d in (-1, 0, 1):
            for t, tap in enumerate(along_x):
                source = phase + t - 1 - 2 * d
                if 0 <= source < weight.shape[3]:
                    phases[phase, ..., 1 - d] += tap * weight[..., source]
    inputs, channels = weight.shape[:2]
    return phases.swapaxes(0, 1).reshape(inputs, 2 * channels, *weight.shape[2:]).astype(np.float32)


class _Nodes:
    """The nodes and constants that replace one layer's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def add(self, op: str, inputs: list[str], suffix: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"{self.name}.{suffix}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def constant(self, suffix: str, value: np.ndarray) -> str:
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(value, f"{self.name}.{suffix}"))
        return self.initializers[-1].name
