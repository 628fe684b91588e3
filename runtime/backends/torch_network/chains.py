"""Finds chains of nodes that one launch of a kernel computes.

A chain counts only if every node, attribute and constant of it is as the exporter writes them, and nothing else reads what
lies between. So a launch computes what its nodes compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stylert.runtime.backends.torch_network.launches import ConvLaunch, RgbLaunch
from stylert.runtime.backends.torch_network.node_chain import NodeChain
from stylert.runtime.backends.torch_network.onnx_graph import OnnxGraph

if TYPE_CHECKING:
    import onnx

#: Types of ONNX that torgb is cast to, and the image at the end
FLOAT, UINT8 = 1, 2
#: The constants of the conversion of [-1, 1] to bytes
BYTES_SCALE, BYTES_SHIFT, BYTES_RANGE = 127.5, 128.0, (0.0, 255.0)


@dataclass(frozen=True)
class Convolution:
    """A ModulatedConv2d node whose weight, bias and filter are constants."""

    output: str
    inputs: tuple[str, ...]  # x, style, demod, and the noise if there is any
    attributes: Any  # ModulatedConv2dNode
    weight: np.ndarray
    bias: np.ndarray
    f: np.ndarray

    @property
    def up(self) -> int:
        return int(self.attributes.up)

    def launch(self, device: str) -> ConvLaunch:
        """The launch, with the weights on a device."""
        import torch

        from stylert.plugins.fir_folding import fold

        weight, bias, f = (torch.from_numpy(array.copy()).to(device) for array in (self.weight, self.bias, self.f))
        # Folding in float64 keeps GPUs from rounding to TF32.
        phases = fold(weight.double(), f.double()).to(weight.dtype) if self.up == 2 else weight[None]
        shapes = {"weight": self.weight.shape, "bias": self.bias.shape, "f": self.f.shape}
        return ConvLaunch(
            self.output,
            self.attributes,
            shapes,
            phases.permute(0, 1, 3, 4, 2).contiguous(),
            bias,
            has_noise=len(self.inputs) == 4,
        )


@dataclass(frozen=True)
class Torgb:
    """A torgb with the sum of images behind it.

    Attributes:
        x: The activations.
        styles: The tensor of all styles, `[L, N, width]`.
        style_index: Position of this layer's style in it.
        weight: `[C, I]`.
        bias: `[C]`.
        clamp: Bound, or 0.
        size: Height and width of the image.
        below: The image of the block below, or None.
        f: The FIR filter that upsamples it, or None.
        output: The image.
    """

    x: str
    styles: str
    style_index: int
    weight: np.ndarray
    bias: np.ndarray
    clamp: float
    size: tuple[int, int]
    below: str | None
    f: np.ndarray | None
    output: str
    name: str

    def launch(self, device: str) -> RgbLaunch:
        """The launch, with the weights on a device."""
        import torch

        weight, bias = (torch.from_numpy(array.copy()).to(device) for array in (self.weight, self.bias))
        f = None if self.f is None else torch.from_numpy(self.f.copy()).to(device)
        return RgbLaunch(self.name, weight, bias, self.clamp, self.style_index, self.size, f, bytes_out=False)


def find_convolution(graph: OnnxGraph, node: onnx.NodeProto) -> Convolution | None:
    """The node, if it is a ModulatedConv2d that a launch can replace."""
    from stylert.plugins.onnx_functions import DOMAIN, node_attributes
    from stylert.plugins.onnx_nodes import ModulatedConv2dNode

    if (node.domain, node.op_type) != (DOMAIN, "ModulatedConv2d"):
        return None
    x, weight, style, demod, noise, bias, f = node.input
    constants = [graph.constant(name) for name in (weight, bias, f)]
    if any(array is None for array in constants):
        return None
    weight_array, bias_array, f_array = (np.asarray(array) for array in constants)
    if weight_array.ndim != 4 or weight_array.dtype not in (np.float16, np.float32) or f_array.dtype != np.float32:
        return None
    attributes = ModulatedConv2dNode.of(node_attributes(node))
    if attributes.up == 2 and (weight_array.shape[2:] != (3, 3) or f_array.shape != (4, 4)):
        return None  # a wrong node, which is refused when it runs
    noise_array = graph.constant(noise)
    is_silent = noise_array is not None and noise_array.size == 1 and not noise_array.any()
    inputs = (x, style, demod, *([] if is_silent else [noise]))
    return Convolution(node.output[0], inputs, attributes, weight_array, bias_array, f_array)


def find_torgb(graph: OnnxGraph, product: onnx.NodeProto) -> Torgb | None:
    """The torgb with this matrix product: `[N, C, I] @ [N, I, H W]`, norm, bias, clamp, and the sum of images."""
    flat = graph.made_by(product.input[1], "Reshape") if product.op_type == "MatMul" else None
    styled = _styled_weight(graph, product.input[0]) if flat is not None else None
    if flat is None or styled is None or not graph.equals(flat.input[1], [0, 0, -1]):
        return None
    chain = NodeChain(graph, product)
    chain.skip("Cast", to=FLOAT)
    weight = styled.weight
    if (factor := chain.other_factor()) is not None:
        scale = _norm_scale(graph, factor, styled)
        if scale is None:
            return None
        weight = weight * np.float32(scale)
    elif styled.is_divided:
        return None  # a normalised style without the norm, which is no form of the exporter
    bias = chain.added_constant()
    if bias is None or bias.dtype != np.float32 or bias.size != len(weight):
        return None
    clamp = chain.clamp()
    size = chain.reshaped_image()
    if size is None:
        return None
    name = chain.output
    below, f = chain.added_upsampling()
    styles, index = styled.styles, styled.index
    return Torgb(flat.input[0], styles, index, weight, bias.reshape(-1), clamp, size, below, f, output=chain.output, name=name)


def bytes_of_image(graph: OnnxGraph) -> tuple[str, str] | None:
    """The float image and the network's output, if the output is that image as the official bytes `[N, H, W, C]`."""
    if len(graph.outputs) != 1:
        return None
    (name,) = graph.outputs
    output, steps = name, []
    for operator in ("Cast", "Transpose", "Floor", "Clip", "Add", "Mul"):
        node = graph.made_by(name, operator)
        if node is None or (name != output and graph.readers[name] != 1):
            return None
        steps.append(node)
        name = node.input[0]
    cast, transpose, _, clip, add, mul = steps
    is_conversion = (
        graph.attribute(cast, "to") == UINT8
        and graph.attribute(transpose, "perm") == [0, 2, 3, 1]
        and graph.equals(clip.input[1], BYTES_RANGE[0])
        and graph.equals(clip.input[2], BYTES_RANGE[1])
        and graph.equals(add.input[1], BYTES_SHIFT)
        and graph.equals(mul.input[1], BYTES_SCALE)
        and graph.readers[name] == 1
    )
    return (name, output) if is_conversion else None


def _styled_weight(graph: OnnxGraph, name: str) -> StyledWeight | None:
    """The factor of a torgb: entry i of `styles[first:] * weight`, as the exporter writes it."""
    entry = graph.entry(name, axis=2)
    if entry is None:
        return None
    stacked, index, size = entry
    if (cast := graph.made_by(stacked, "Cast")) is not None:
        stacked = cast.input[0]
    product = graph.made_by(stacked, "Mul")
    unsqueeze = None if product is None else graph.made_by(product.input[0], "Unsqueeze")
    weights = None if product is None else graph.constant(product.input[1])
    if unsqueeze is None or weights is None or not graph.equals(unsqueeze.input[1], [2]):
        return None
    is_rgb_weight = weights.ndim == 4 and weights.shape[1] == 1 and 1 <= weights.shape[2] <= 4 and weights.dtype == np.float32
    cut = graph.made_by(unsqueeze.input[0], "Slice")
    starts = None if cut is None else graph.constant(cut.input[1])
    if cut is None or starts is None or not is_rgb_weight or not index < len(weights) or starts.shape != (1,) or starts[0] < 0:
        return None
    if not graph.equals(cut.input[2], starts + len(weights)) or not graph.equals(cut.input[3], [0]):
        return None
    source, first = cut.input[0], int(starts[0])
    division = graph.made_by(source, "Div")
    styles, norms = (source, None) if division is None else (division.input[0], division.input[1])
    return StyledWeight(styles, norms, first + index, weights[index, 0, :, :size])


def _norm_scale(graph: OnnxGraph, factor: str, styled: StyledWeight) -> float | None:
    """The constant that multiplies torgb beside the norm of its style; None if there is anything else.

    The style is divided by the norm, and the result is multiplied by it. So the launch takes the style as it was.
    """
    scalar = graph.constant(factor)
    if scalar is not None:
        return float(scalar) if scalar.ndim == 0 and not styled.is_divided else None
    unsqueeze = graph.made_by(factor, "Unsqueeze")
    if unsqueeze is None or not graph.equals(unsqueeze.input[1], [1]):
        return None
    norm, scale = unsqueeze.input[0], 1.0
    if (product := graph.made_by(norm, "Mul")) is not None:
        constant = graph.constant(product.input[1])
        if constant is None or constant.ndim:
            return None
        norm, scale = product.input[0], float(constant)
    return scale if graph.entry(norm, axis=1) == (styled.norms, styled.index, None) else None


@dataclass(frozen=True)
class StyledWeight:
    """The factor of a torgb: its weight times its style.

    Attributes:
        styles: The tensor of all styles, before they were divided.
        norms: The tensor of the norms that divide them, or None.
        index: Position of the layer in both.
        weight: `[C, I]`, constant.
    """

    styles: str
    norms: str | None
    index: int
    weight: np.ndarray

    @property
    def is_divided(self) -> bool:
        return self.norms is not None
