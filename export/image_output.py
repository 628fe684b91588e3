"""Writes the nodes that convert the RGB image of a synthesis network to the output of a bundle."""

from __future__ import annotations

from typing import Literal

import numpy as np

from stylert.export.graph import GraphBuilder

OutputType = Literal["uint8", "float"]

#: Names of the nodes that convert the RGB image to bytes, in order. Benchmarks find their times by these names.
IMAGE_NODES = ("scaled", "shifted", "clipped", "floored", "nhwc", "image")


def image_output(g: GraphBuilder, image: str, sizes: tuple[int, int, int], output: OutputType) -> None:
    """Convert `image`, float32 of the `sizes` `[N, C, H, W]` nominally in [-1, 1], to the output `image` of the network."""
    channels, height, width = sizes
    if output == "float":
        g.node("Identity", [image], "image")
        g.output("image", ["N", channels, height, width])
        return
    # The official conversion truncates x * 127.5 + 128. Floor comes first, because the cast of some runtimes rounds.
    scaled, shifted, clipped, floored, nhwc, last = IMAGE_NODES
    y = g.node("Mul", [image, g.constant(127.5)], scaled)
    y = g.node("Add", [y, g.constant(128.0)], shifted)
    y = g.node("Clip", [y, g.constant(0.0), g.constant(255.0)], clipped)
    y = g.node("Floor", [y], floored)
    y = g.node("Transpose", [y], nhwc, perm=[0, 2, 3, 1])
    g.output(last, ["N", height, width, channels], np.uint8)
    g.cast(y, last, np.uint8)
