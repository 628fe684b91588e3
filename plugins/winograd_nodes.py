"""One ModulatedConv2d layer in Winograd's form: standard ONNX operators over lists of pixels, for any batch and size.

    Mul                 the style
    Pad, Gather         the pixels of every input tile: [N, (m + 2)^2, tiles, I], zero outside of the image
    MatMul              B^T d B for all tiles and channels at once
    MatMul              the sum over input channels, at each of the (m + 2)^2 positions
    MatMul              A^T [...] A: [N, m^2, tiles, O], which is a list of pixels again
    Mul, Add, Add       demodulation, noise, bias
    LeakyRelu, Clip

A list of pixels is `[N, P, C]`, in any order. So no node moves pixels to their places: the next layer gathers its tiles
from wherever the pixels are. An upsampling layer convolves with its four polyphase kernels (`fir_folding.py`), which
share one input transform. Their pixels are in the list, too, and need no interleaving.

The transformed kernels are nodes over the stored weights. A runtime folds them when it opens the network, so a file
stays as small as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from onnx import TensorProto

from stylert.plugins.fir_folding import fold
from stylert.plugins.onnx_nodes import ModulatedConv2dNode
from stylert.plugins.winograd import TAPS, transforms


class Graph(Protocol):
    """A graph that is being written."""

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node with one output, and return the output's name."""
        ...

    def constant(self, value: np.ndarray) -> str:
        """A constant of the type of `value`."""
        ...


@dataclass(frozen=True, eq=False)
class PixelList:
    """An image tensor as a list of pixels.

    Attributes:
        tensor: `[N, P, C]`. P may exceed the number of pixels; nothing reads the others.
        order: `[H, W]`, the index of each pixel in the list.
        length: P.
    """

    tensor: str
    order: np.ndarray
    length: int


@dataclass(frozen=True)
class Layer:
    """The inputs of a ModulatedConv2d node, as `onnx_functions.py` describes them.

    Attributes:
        weight: The tensor `[O, I, 3, 3]`.
        weight_shape: Its shape.
        style: The tensor `[N, I]`.
        demod: The tensor `[N, O]`.
        noise: The tensor `[1 or N, 1, H' or 1, W' or 1]`, or its value if it is a constant of one sample.
        bias: `[O]`.
        fir: `[4, 4]`.
        attributes: The attributes of the node.
    """

    weight: str
    weight_shape: tuple[int, ...]
    style: str
    demod: str
    noise: str | np.ndarray
    bias: np.ndarray
    fir: np.ndarray
    attributes: ModulatedConv2dNode


def image_to_pixels(g: Graph, name: str, image: str, size: tuple[int, int], channels: int) -> PixelList:
    """`[N, C, H, W]` as a list, row by row."""
    flat = g.node("Reshape", [image, _ints(g, 0, channels, size[0] * size[1])], f"{name}.flat")
    pixels = g.node("Transpose", [flat], f"{name}.pixels", perm=[0, 2, 1])
    return PixelList(pixels, np.arange(size[0] * size[1]).reshape(size), size[0] * size[1])


def pixels_to_image(g: Graph, name: str, pixels: PixelList, channels: int) -> str:
    """The list as `[N, C, H, W]`, a tensor of this name."""
    rows = g.node("Gather", [pixels.tensor, g.constant(pixels.order.reshape(-1))], f"{name}.rows", axis=1)
    planes = g.node("Transpose", [rows], f"{name}.planes", perm=[0, 2, 1])
    return g.node("Reshape", [planes, _ints(g, 0, channels, *pixels.order.shape)], name)


def winograd_layer(g: Graph, name: str, x: PixelList, layer: Layer, tile: int) -> PixelList:
    """Add one layer.

    Args:
        g: The graph.
        name: The name of the layer. It begins the names of all tensors.
        x: The input, H x W pixels of I channels.
        layer: The other inputs.
        tile: The width of a tile, 2 or 4.

    Returns:
        The output, H x W or 2 H x 2 W pixels of O channels.
    """
    outputs, inputs, *_ = layer.weight_shape
    t, up, (height, width) = transforms(tile), layer.attributes.up, x.order.shape
    rows, columns, positions = -(-height // tile), -(-width // tile), len(t.input) ** 2
    count = rows * columns
    kernels = _kernels(g, name, layer, tile)
    demod = g.node("Mul", [layer.demod, _float(g, layer.attributes.epilogue.gain)], f"{name}.demod_by_gain")
    # Whichever is smaller is multiplied by the style and the demodulation: the transformed kernels or the activations.
    in_kernels = positions * up * up * inputs * outputs < height * width * (inputs + up * up * outputs)
    if in_kernels:
        kernels, modulated = _modulated_kernels(g, name, kernels, layer, demod), x.tensor
    else:
        modulated = g.node("Mul", [x.tensor, _unsqueeze(g, layer.style, f"{name}.style_1")], f"{name}.modulated")
    padded = g.node("Pad", [modulated, _ints(g, 0, 1), "", _ints(g, 1)], f"{name}.padded")
    tiles = g.node("Gather", [padded, g.constant(_tile_pixels(x, tile, rows, columns))], f"{name}.tiles", axis=1)
    tiles = g.node("Reshape", [tiles, _ints(g, 0, positions, count * inputs)], f"{name}.tiles_flat")
    input_matrix = t.input_2d.reshape(positions, positions)
    y = g.node("MatMul", [_float(g, input_matrix), tiles], f"{name}.input_transform")
    y = g.node("Reshape", [y, _ints(g, 0, positions, count, inputs)], f"{name}.positions")
    y = g.node("MatMul", [y, kernels], f"{name}.products")
    y = g.node("Reshape", [y, _ints(g, 0, positions, count * up * up * outputs)], f"{name}.products_flat")
    y = g.node("MatMul", [_float(g, t.output_2d.reshape(-1, positions)), y], f"{name}.output_transform")
    length = tile * tile * count * up * up
    y = g.node("Reshape", [y, _ints(g, 0, length, outputs)], f"{name}.conv")
    if not in_kernels:
        y = g.node("Mul", [y, _unsqueeze(g, demod, f"{name}.demod_1")], f"{name}.demodulated")

    # The list has the axes: pixel of the tile (y, x), tile (y, x), phase (y, x).
    order = np.arange(length).reshape(tile, tile, rows, columns, up, up).transpose(2, 0, 4, 3, 1, 5)
    order = order.reshape(rows * tile * up, columns * tile * up)[: height * up, : width * up]
    return PixelList(_epilogue(g, name, y, layer, order, length), order, length)


def _tile_pixels(x: PixelList, tile: int, rows: int, columns: int) -> np.ndarray:
    """`[(m + 2)^2, tiles]`: the pixels of each input tile. Behind the list comes a pixel of zeros for those outside."""
    height, width = x.order.shape
    bottom, right = rows * tile - height, columns * tile - width
    image = np.pad(x.order, ((1, 1 + bottom), (1, 1 + right)), constant_values=x.length)
    windows = np.lib.stride_tricks.sliding_window_view(image, (tile + 2, tile + 2))[::tile, ::tile]
    return windows.transpose(2, 3, 0, 1).reshape((tile + 2) ** 2, rows * columns)


def _kernels(g: Graph, name: str, layer: Layer, tile: int) -> str:
    """`[(m + 2)^2, I, O]`, or with upsampling `[(m + 2)^2, I, 4 O]`: G g G^T of every kernel."""
    outputs, inputs, *_ = layer.weight_shape
    matrix, phases = transforms(tile).kernel_2d, layer.attributes.up**2
    positions = matrix.shape[1]
    if phases > 1:
        # Folding is linear in the kernel. The kernels with one tap give its matrix.
        one_tap = np.eye(TAPS * TAPS).reshape(-1, 1, TAPS, TAPS)
        folded = fold(one_tap, layer.fir.astype(np.float64)).reshape(phases, TAPS * TAPS, TAPS * TAPS)
        matrix = (folded @ matrix).transpose(1, 2, 0).reshape(TAPS * TAPS, positions * phases)
    # The small tensor is transposed, not the transformed one, so that folding is quick.
    u = g.node("Reshape", [layer.weight, _ints(g, outputs, inputs, TAPS * TAPS)], f"{name}.taps")
    u = g.node("Transpose", [u], f"{name}.taps_first", perm=[2, 1, 0])
    u = g.node("Reshape", [u, _ints(g, TAPS * TAPS, inputs * outputs)], f"{name}.taps_flat")
    u = g.node("MatMul", [_float(g, matrix.T), u], f"{name}.kernels")
    if phases > 1:
        u = g.node("Reshape", [u, _ints(g, positions, phases, inputs, outputs)], f"{name}.kernels_by_phase")
        u = g.node("Transpose", [u], f"{name}.kernels_by_input", perm=[0, 2, 1, 3])
    return g.node("Reshape", [u, _ints(g, positions, inputs, phases * outputs)], f"{name}.kernels_by_channel")


def _modulated_kernels(g: Graph, name: str, kernels: str, layer: Layer, demod: str) -> str:
    """`[N, (m + 2)^2, I, O or 4 O]`: the transformed kernels of each sample, times its style and demodulation."""
    style = g.node("Unsqueeze", [layer.style, _ints(g, 2)], f"{name}.style_1")
    demod = g.node("Unsqueeze", [demod, _ints(g, 1)], f"{name}.demod_1")
    factors = g.node("Mul", [style, demod], f"{name}.factors")
    if layer.attributes.up > 1:
        factors = g.node("Concat", [factors] * layer.attributes.up**2, f"{name}.factors_of_phases", axis=2)
    factors = g.node("Unsqueeze", [factors, _ints(g, 1)], f"{name}.factors_1")
    return g.node("Mul", [kernels, factors], f"{name}.modulated_kernels")


def _epilogue(g: Graph, name: str, y: str, layer: Layer, order: np.ndarray, length: int) -> str:
    """Noise, bias, leaky ReLU and clamp. The gain is folded into the first two, and before into the demodulation."""
    epilogue = layer.attributes.epilogue
    noise = _noise_list(g, name, layer, order, length)
    if noise is not None:
        y = g.node("Add", [y, noise], f"{name}.noisy")
    y = g.node("Add", [y, _float(g, layer.bias * epilogue.gain)], f"{name}.biased")
    y = g.node("LeakyRelu", [y], f"{name}.activated", alpha=epilogue.slope)
    if epilogue.clamp:
        y = g.node("Clip", [y, _float(g, -epilogue.clamp), _float(g, epilogue.clamp)], f"{name}.clamped")
    return y


def _noise_list(g: Graph, name: str, layer: Layer, order: np.ndarray, length: int) -> str | None:
    """`[1 or N, P, 1]` with the gain, or None for a noise of zeros."""
    gain = layer.attributes.epilogue.gain
    if not isinstance(layer.noise, str):
        pixels = np.zeros((length, 1))
        pixels[order] = np.broadcast_to(layer.noise[0, 0], order.shape)[..., None] * gain
        return _float(g, pixels) if pixels.any() else None
    source = np.zeros(length, np.int64)  # pixels that nothing reads get the noise of the first one
    source[order] = np.arange(order.size).reshape(order.shape)
    noise = g.node("Cast", [layer.noise], f"{name}.noise_float", to=TensorProto.FLOAT)
    noise = g.node("Expand", [noise, _ints(g, 1, 1, *order.shape)], f"{name}.noise_plane")
    flat = g.node("Reshape", [noise, _ints(g, 0, order.size, 1)], f"{name}.noise_flat")
    pixels_first = g.node("Gather", [flat, g.constant(source)], f"{name}.noise_list", axis=1)
    return g.node("Mul", [pixels_first, _float(g, gain)], f"{name}.noise_by_gain")


def _unsqueeze(g: Graph, tensor: str, name: str) -> str:
    """`[N, C]` as `[N, 1, C]`."""
    return g.node("Unsqueeze", [tensor, _ints(g, 1)], name)


def _float(g: Graph, value: Any) -> str:
    return g.constant(np.asarray(value, np.float32))


def _ints(g: Graph, *values: int) -> str:
    return g.constant(np.array(values, np.int64))
