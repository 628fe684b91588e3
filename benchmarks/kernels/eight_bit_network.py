"""The network of the torch backend with 8-bit convolutions, to measure the kernels in int8 and FP8.

No bundle holds such a network. Weights have one scale per output channel, and the modulated activations of a layer one scale,
from the largest value that the given latents make. There are none of the exporter's refinements, so nothing is known about its
fidelity on trained networks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stylert.plugins.eight_bit import LARGEST, quantize_weight
from stylert.runtime.backends.torch_network.graph import TorchGraph
from stylert.runtime.backends.torch_network.launches import ConvLaunch
from stylert.runtime.backends.torch_network.operators import Node

#: 8-bit layers have at least this resolution and this many input and output channels.
MIN_RESOLUTION, MIN_CHANNELS = 8, 16
#: Dtype of the weights by precision.
DTYPES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
#: Tensors of the exporter `[layers, N, width]`, and their names in the type of the activations.
STYLES, DEMODS = ("unit_styles", "unit_styles_float16"), ("demods", "demods_float16")


def eight_bit_network(graph: TorchGraph, precision: str, ws: Tensor) -> None:
    """Change a float16 network in place. Its 3x3 convolutions multiply in 8 bits, from 8 px up with 16 channels or more.

    Args:
        graph: The network, on kernels.
        precision: `int8` or `fp8`.
        ws: `[N, num_ws, w_dim]`, the latents to calibrate on.
    """
    dtype = DTYPES[precision]
    peaks = _largest_activations(graph, ws)
    launches = [node.run for node in graph.nodes if isinstance(node.run, ConvLaunch)]
    widths = max(launch.weight.shape[4] for launch in launches), max(launch.weight.shape[1] for launch in launches)
    # The exporter numbers the convolutions from the lowest resolution on, as they run.
    style_factors = torch.ones(len(launches), 1, 1, device=ws.device)
    demod_factors = torch.ones(len(launches), 1, widths[1], device=ws.device)
    quantized: dict[int, ConvLaunch] = {}
    for i, launch in enumerate(launches):
        if not _is_wide(launch):
            continue
        activation_scale = max(peaks[i], 1e-12) / LARGEST[dtype]
        weight, weight_scale = quantize_weight(launch.weight, dtype)
        quantized[id(launch)] = replace(launch, weight=weight)
        style_factors[i] = 1 / activation_scale
        demod_factors[i, 0, : len(weight_scale)] = weight_scale * activation_scale
    nodes = list(_scaled(graph.nodes, {STYLES: style_factors, DEMODS: demod_factors}))
    graph.replace_nodes([node._replace(run=quantized.get(id(node.run), node.run)) for node in nodes])


def _largest_activations(graph: TorchGraph, ws: Tensor) -> list[float]:
    """The largest modulated activation of every convolution, in their order."""
    peaks: list[float] = []

    @contextlib.contextmanager
    def observed(node: Node, operands: list[Any]) -> Iterator[None]:
        if isinstance(node.run, ConvLaunch):
            x, style = operands[:2]
            peaks.append(float((x.float() * style.float()[:, :, None, None]).abs().max()))
        yield

    with torch.inference_mode():
        graph({"ws": ws}, observed)
    return peaks


def _is_wide(launch: ConvLaunch) -> bool:
    o, i = launch.weight.shape[1], launch.weight.shape[4]
    resolution = int(launch.name.split(".")[0].removeprefix("b"))
    return resolution >= MIN_RESOLUTION and min(o, i) >= MIN_CHANNELS


def _scaled(nodes: list[Node], factors: dict[tuple[str, str], Tensor]) -> Iterator[Node]:
    """The nodes, with all styles and demodulations times factors. These are float32, for the range that they then need."""
    for node in nodes:
        renamed = node
        for (exact, rounded), _ in factors.items():
            if rounded in node.inputs:
                renamed = node._replace(inputs=tuple(f"{exact}_scaled" if name == rounded else name for name in node.inputs))
        if any(rounded in node.outputs for _, rounded in factors):
            continue  # the cast to float16
        yield renamed
        for (exact, _), factor in factors.items():
            if exact in node.outputs:
                yield Node(f"{exact}_scaled", partial(_times, factor), (exact,), (f"{exact}_scaled",))


def _times(factors: Tensor, operands: list[Tensor]) -> Tensor:
    """The operand times the factors, entry by entry. The entries of torgb layers, which come last, are left out."""
    return operands[0][: len(factors)] * factors
