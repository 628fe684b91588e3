"""Cuts a synthesis network into stages that run one after the other.

The first stage makes the styles of all layers from ws. Each later one is a block: the convolutions of a resolution, and the
torgb of the resolution before, which has the same latent as the first of them. The last stage also has its own torgb.

      ws ──► styles ──┬──────────────┬───────────────┬────────
                      ▼              ▼               ▼
                  4 px block ──► 8 px block ──► ... last block ──► image

A tensor that a stage gives to a later one is an output of the one and an input of the other. All of them have the batch as
their first axis. So a stage whose inputs are those of a call before would give what it gave then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stylert.core.errors import BundleError

if TYPE_CHECKING:
    import onnx

#: The learned constant of the first block. All that depends on it are activations, and the rest are styles or constants.
LEARNED_CONSTANT = "b4.const"
FIRST_RESOLUTION = 4


@dataclass(frozen=True)
class Stage:
    """One stage of a network.

    Attributes:
        inputs: Names of its inputs, of the network or of stages before.
        outputs: Names of its outputs, of the network or for later stages.
        model: Its network.
    """

    inputs: Sequence[str]
    outputs: Sequence[str]
    model: onnx.ModelProto


def cut(model: onnx.ModelProto, resolution: int) -> list[Stage]:
    """Cut a synthesis network of StyleGAN2 behind each of its blocks.

    Args:
        model: The network, in any form in which the exporter writes it: the outputs of its layers have their names.
        resolution: Side of its images in pixels.

    Raises:
        BundleError: The network lacks a tensor by which it is cut, or the type of one cannot be found.
    """
    import onnx
    from onnx.utils import Extractor

    try:
        graph = _Graph(onnx.shape_inference.infer_shapes(model))
        stages = graph.stages(resolution)
        extractor = Extractor(graph.model)
        return [Stage(i, o, extractor.extract_model(list(i), list(o))) for i, o in graph.borders(stages)]
    except (KeyError, ValueError, onnx.shape_inference.InferenceError) as e:
        raise BundleError(f"the network cannot be cut into stages: {e}") from None


class _Graph:
    """A network's nodes, by the tensors that they make and read."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output}

    def stages(self, resolution: int) -> list[set[int]]:
        """The indices of the nodes of each stage. Nodes that depend on no input are in none: each reader gets a copy."""
        live, activations = self._readers(set(self.inputs)), self._readers({LEARNED_CONSTANT})
        if not activations:
            raise ValueError(f"it has no tensor {LEARNED_CONSTANT}")
        stages, done = [live - activations], set[int]()
        while (side := FIRST_RESOLUTION << (len(stages) - 1)) < resolution:
            block = self._makers(self._borders_of_block(side)) & activations
            stages.append(block - done)
            done |= block
        return [*stages, activations - done]

    def borders(self, stages: Sequence[set[int]]) -> list[tuple[list[str], list[str]]]:
        """The inputs and outputs of each stage, in the order of the nodes."""
        stage_of = {i: number for number, stage in enumerate(stages) for i in stage}
        made_in = dict.fromkeys(self.inputs, -1) | {t: stage_of[i] for t, i in self.maker.items() if i in stage_of}
        read: list[dict[str, None]] = [{} for _ in stages]
        given: list[dict[str, None]] = [{} for _ in stages]
        for i, number in sorted(stage_of.items()):
            for tensor in self.nodes[i].input:
                source = made_in.get(tensor, number)  # weights and constants are everywhere
                if source != number:
                    read[number][tensor] = None
                    if source >= 0:
                        given[source][tensor] = None
        for tensor in self.outputs:
            given[made_in[tensor]][tensor] = None
        return [(list(i), list(o)) for i, o in zip(read, given, strict=True)]

    def _borders_of_block(self, side: int) -> list[str]:
        """The tensors that make up a block: its activations, and the image of the blocks before, if there is one."""
        activations, smaller = self._made(f"b{side}.sum", f"b{side}.conv1"), side // 2
        images = self._made(f"b{smaller}.img", f"b{smaller}.torgb")
        if not activations:
            raise ValueError(f"it has no tensor b{side}.conv1")
        return activations[:1] + images[:1]

    def _made(self, *names: str) -> list[str]:
        return [name for name in names if name in self.maker]

    def _readers(self, tensors: set[str]) -> set[int]:
        """The nodes that depend on one of these tensors."""
        known, readers = set(tensors), set()
        for i, node in enumerate(self.nodes):  # each node stands behind those that it reads
            if not known.isdisjoint(node.input):
                readers.add(i)
                known.update(node.output)
        return readers

    def _makers(self, tensors: Sequence[str]) -> set[int]:
        """The nodes on which one of these tensors depends."""
        makers, wanted = set[int](), list(tensors)
        while wanted:
            i = self.maker.get(wanted.pop())
            if i is not None and i not in makers:
                makers.add(i)
                wanted.extend(self.nodes[i].input)
        return makers
