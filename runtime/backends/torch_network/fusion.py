"""Replaces the nodes of a synthesis network by launches of the kernels, one for each layer.

- A ModulatedConv2d with constant weights becomes a `ConvLaunch`.
- torgb, the upsampling of the image below and their sum become an `RgbLaunch`. For up to `RGB_CHANNELS` channels they join
  the convolution before them.
- The conversion to bytes joins the last torgb.

All other nodes stay as they are, such as those of the styles: two batched products in front of the network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from stylert.runtime.backends.torch_network.chains import bytes_of_image, find_convolution, find_torgb
from stylert.runtime.backends.torch_network.launches import RGB_CHANNELS
from stylert.runtime.backends.torch_network.onnx_graph import OnnxGraph
from stylert.runtime.backends.torch_network.operators import Node

if TYPE_CHECKING:
    import onnx


def kernels_run_on(device: str) -> bool:
    """Whether the Triton kernels run on a device (`stylert.plugins.custom_ops.define.has_kernels`)."""
    import torch

    from stylert.plugins.custom_ops.define import has_kernels

    return has_kernels(torch.empty(0, dtype=torch.float16, device=device))


def fused_nodes(model: onnx.ModelProto, nodes: list[Node], device: str) -> list[Node]:
    """The nodes of a network, with launches in place of the nodes that they compute.

    Args:
        model: The network. It has passed `onnx_functions.check_nodes`.
        nodes: A node for each of the model's, in their order.
        device: The device of the weights.

    Returns:
        The nodes in an order in which they can run. None of them is without effect on the output.
    """
    graph = OnnxGraph(model)
    steps = {node.outputs[0]: node for node in nodes}
    found = [conv for node in model.graph.node if (conv := find_convolution(graph, node)) is not None]
    convs = {conv.output: (conv, conv.launch(device)) for conv in found}
    for output, (conv, launch) in convs.items():
        steps[output] = Node(output, launch, conv.inputs, (output,))
    as_bytes = bytes_of_image(graph)
    for node in model.graph.node:
        torgb = find_torgb(graph, node)
        if torgb is None:
            continue
        rgb, image = torgb.launch(device), torgb.output
        if as_bytes is not None and image == as_bytes[0]:
            rgb, image = replace(rgb, bytes_out=True), as_bytes[1]
        x, rgb_inputs = torgb.x, (torgb.styles, *([torgb.below] if torgb.below else []))
        if x in convs and convs[x][0].up == 1 and convs[x][0].weight.shape[0] <= RGB_CHANNELS:
            conv, launch = convs.pop(x)  # a second torgb of the same activations has a launch of its own
            del steps[x]
            keep = graph.readers[x] > 1 or x in graph.outputs
            fused = launch.with_rgb(rgb, keep)
            steps[image] = Node(fused.name, fused, (*conv.inputs, *rgb_inputs), (x, image) if keep else (image,))
        else:
            steps[image] = Node(rgb.name, rgb, (x, *rgb_inputs), (image,))
    position = {name: i for i, node in enumerate(model.graph.node) for name in node.output}
    # A launch has the place of the last node that it replaces, right behind the layer whose activations it reads.
    ordered = sorted(_needed(steps.values(), graph.outputs), key=lambda node: position[node.outputs[-1]])
    # Only a network that is not the exporter's needs a layer's activations for the image that the layer adds to.
    return ordered if _operands_come_first(ordered, steps) else nodes


def _needed(nodes: Iterable[Node], outputs: Collection[str]) -> list[Node]:
    """The nodes that have an effect on the outputs."""
    makers = {name: node for node in nodes for name in node.outputs}
    needed: dict[str, Node] = {}
    names = list(outputs)
    while names:
        node = makers.get(names.pop())
        if node is not None and node.outputs[0] not in needed:
            needed[node.outputs[0]] = node
            names.extend(node.inputs)
    return list(needed.values())


def _operands_come_first(nodes: list[Node], steps: dict[str, Node]) -> bool:
    """Whether no node reads a result of `steps` before that is made."""
    computed = {name for step in steps.values() for name in step.outputs}
    for node in nodes:
        if computed.intersection(node.inputs):
            return False
        computed.difference_update(node.outputs)
    return True
