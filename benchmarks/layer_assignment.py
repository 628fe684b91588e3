"""The layer that each node of a compiled graph belongs to.

The exporter names every node after its layer, and the last tensor of each layer has the layer's name. Compilers rename, split
and fuse nodes, but most tensors keep their names. A node without a layer in its name belongs to the layer that it
feeds, so a reordering between two layers belongs to the later one.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.export.image_output import IMAGE_NODES
from stylert.runtime.backends.kernel_table import EngineLayer

#: Two layers besides those of the network: the styles of all layers before the first, the image's conversion after the last.
STYLES, IMAGE = "styles", "image"
LAYER_NAME = re.compile(r"\bb(\d+)\.(conv0|conv1|torgb|skip|upsampled|img|sum|const)\b")
#: A name that `name_nodes_by_layer` gave, also within the longer name that a compiler made of it.
GIVEN_NAME = re.compile(rf"(b\d+\.\w+|{STYLES}|{IMAGE})@\d+")


@dataclass(frozen=True)
class Node:
    """One node of a compiled graph.

    Attributes:
        name: Its name, which no other node has.
        inputs: Names of the tensors that it reads.
        outputs: Names of the tensors that it writes.
        layer: The layer in its own name, or None.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer: str | None


def layer_of(name: str) -> str | None:
    """The layer in the name of a node or a tensor.

    Returns:
        Such as `b64.conv1`; `b64.skip` for what carries the RGB image up; `image` for its conversion; None for other names.
    """
    match = LAYER_NAME.search(name)
    if match is None:
        return IMAGE if name in IMAGE_NODES else None
    resolution, part = match.groups()
    return f"b{resolution}.{part if part in ('conv0', 'conv1', 'torgb') else 'skip'}"


def given_layer(name: str) -> str | None:
    """The layer in a name that `name_nodes_by_layer` gave, or None."""
    match = GIVEN_NAME.search(name)
    return match[1] if match else None


def first_layer_of(names: Sequence[str]) -> str | None:
    """The first layer that is in one of `names`, or None."""
    return next((layer for layer in map(layer_of, names) if layer is not None), None)


def assign_layers(nodes: Sequence[Node], style_nodes: frozenset[str] = frozenset()) -> dict[str, str]:
    """The layer of every node, by name.

    A node without a layer in its own name belongs to that of the first node that reads its result, or to `image` where none
    does.

    Args:
        nodes: In an order in which each stands before the nodes that read its result.
        style_nodes: Names of nodes that belong to `styles`.
    """
    reader_layers: dict[str, str] = {}
    layers: dict[str, str] = {}
    for node in reversed(nodes):
        layer = node.layer
        if layer is None and node.name in style_nodes:
            layer = STYLES
        if layer is None:
            layer = next((reader_layers[tensor] for tensor in node.outputs if tensor in reader_layers), IMAGE)
        layers[node.name] = layer
        for tensor in node.inputs:
            reader_layers[tensor] = layer  # the walk goes backwards, so the first reader is written last
    return layers


def onnx_layers(graph: Any, style_nodes: frozenset[str]) -> dict[str, str]:
    """The layer of every node of an ONNX graph, by node name."""
    nodes = [Node(n.name, tensors_read(n), tuple(n.output), first_layer_of((n.name, *n.output))) for n in graph.node]
    return assign_layers(nodes, style_nodes)


def engine_layers(kernels: Sequence[EngineLayer], lowered: Path, style_nodes: frozenset[str]) -> dict[str, str]:
    """The layer of every kernel of an engine, by kernel name.

    A kernel that was fused from nodes of several layers belongs to the layer with most of them.

    Args:
        kernels: The table of kernels in `engine.json`.
        lowered: The ONNX file that the engine was built from.
        style_nodes: Names of nodes that belong to `styles`.
    """
    import onnx

    node_layers = onnx_layers(onnx.load(lowered, load_external_data=False).graph, style_nodes)
    layers = {}
    for kernel in kernels:
        origins = [node_layers.get(name) or first_layer_of((name,)) for name in kernel["origins"]]
        counts = Counter(layer for layer in origins if layer is not None)
        layers[kernel["name"]] = max(counts, key=counts.__getitem__, default=layer_of(kernel["name"]) or STYLES)
    return layers


def name_nodes_by_layer(source: Path) -> Any:
    """The ONNX model in `source`, functions inlined, with each node named `<layer>@<number>`, also inside branches."""
    import onnx
    from onnx.inliner import inline_local_functions

    model = inline_local_functions(onnx.load(source))
    style_nodes = style_node_names(source)
    # The inliner may give two nodes the same name, so nodes are identified by position.
    numbered = {str(position): node for position, node in enumerate(model.graph.node)}
    nodes = [
        Node(number, tensors_read(node), tuple(node.output), first_layer_of((node.name, *node.output)))
        for number, node in numbered.items()
    ]
    layers = assign_layers(nodes, frozenset(number for number, node in numbered.items() if node.name in style_nodes))
    name_numbers = itertools.count()

    def rename(node: Any, layer: str) -> None:
        node.name = f"{layer}@{next(name_numbers)}"
        for attribute in node.attribute:
            for inner in attribute.g.node:
                rename(inner, layer)

    for number, node in numbered.items():
        rename(node, layers[number])
    return model


def style_node_names(source: Path) -> frozenset[str]:
    """Names of the nodes that make the styles: those of the exporter that have no layer in their names."""
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    return frozenset(n.name for n in graph.node if first_layer_of((n.name, *n.output)) is None)


def tensors_read(node: Any) -> tuple[str, ...]:
    """Names of the tensors that an ONNX node reads, inside its branches too, which do not name them as inputs."""
    inner = (tensor for attribute in node.attribute for n in attribute.g.node for tensor in tensors_read(n))
    branch_outputs = (output.name for attribute in node.attribute for output in attribute.g.output)
    return (*node.input, *inner, *branch_outputs)


def in_execution_order(graph: Any) -> list[Any]:
    """The nodes of an ONNX graph, each behind those whose results it reads. Optimisers append theirs at the end."""
    producers = {tensor: node for node in graph.node for tensor in node.output}
    order: list[Any] = []
    visited: set[int] = set()
    for last in graph.node:
        # Depth first: a node is in the stack once to push its producers, and a second time to follow them.
        stack = [(last, False)]
        while stack:
            node, producers_done = stack.pop()
            if id(node) in visited:
                continue
            if producers_done:
                visited.add(id(node))
                order.append(node)
                continue
            stack.append((node, True))
            needed = [producers[tensor] for tensor in node.input if tensor in producers]
            stack += [(producer, False) for producer in needed if id(producer) not in visited]
    return order
