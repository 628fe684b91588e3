"""Writes the ONNX model of a restoration network of either kind."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

from stylert.export.image_output import OutputType, image_output
from stylert.export.restoration.gfpgan import gfpgan_graph
from stylert.export.restoration.gpen import gpen_graph
from stylert.export.restoration.graph import ConvTensors, RestorationGraph
from stylert.export.restoration.plan import RestorationPlan
from stylert.models.restoration.checkpoints import RestorerWeights
from stylert.models.restoration.gfpgan.config import GfpganConfig


def restoration_model(
    weights: RestorerWeights,
    plan: RestorationPlan | None = None,
    output: OutputType = "uint8",
    observe: Collection[ConvTensors] = (),
) -> onnx.ModelProto:
    """Write the network.

    Args:
        weights: The network.
        plan: The plan. By default everything is in float32.
        output: The type of the images.
        observe: Convolutions of this plan (`convolutions`) whose input and output the model also returns.

    Returns:
        A model from `photo`, uint8 `[N, R, R, 3]`, to `image`, uint8 of the same shape or float32 `[N, 3, R, R]`.

    Raises:
        CheckpointError: float16 cannot hold a constant of the network, or the network is too large for a file.
    """
    g, image = _graph(weights, plan or RestorationPlan())
    image_output(g, image, _sizes(weights), output)
    for name in dict.fromkeys(tensor for conv in observe for tensor in (conv.input, conv.output)):
        g.output(name, ["N", None, None, None], g.plan.dtype)
    return g.model()


def convolutions(weights: RestorerWeights, plan: RestorationPlan) -> dict[str, ConvTensors]:
    """The convolutions that can be in 8 bits, by name, in the order in which the network runs them."""
    return _graph(weights, plan)[0].convolutions


def peak_model(weights: RestorerWeights) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A float32 model that returns the greatest magnitude of each signal, and the part of each output, by its name."""
    g, image = _graph(weights, RestorationPlan(operators=False))
    image_output(g, image, _sizes(weights), "uint8")
    parts = {}
    for i, (signal, part) in enumerate(g.signals.items()):
        peak = g.node("ReduceMax", [g.node("Abs", [signal], f"peak.{i}.size")], f"peak.{i}", keepdims=0)
        g.output(peak, [], np.float32)
        parts[peak] = part
    return g.model(), parts


def _graph(weights: RestorerWeights, plan: RestorationPlan) -> tuple[RestorationGraph, str]:
    cfg = weights.config
    return gfpgan_graph(weights, cfg, plan) if isinstance(cfg, GfpganConfig) else gpen_graph(weights, cfg, plan)


def _sizes(weights: RestorerWeights) -> tuple[int, int, int]:
    """Channels, height and width of the images."""
    return weights.config.img_channels, weights.config.resolution, weights.config.resolution
