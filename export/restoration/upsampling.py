"""The convolutions of restoration networks that double the side, and the doubling of RGB.

GPEN has StyleGAN2's: a stride-2 transposed convolution and a FIR, with zeros around the image. GFP-GAN enlarges bilinearly and then
convolves. Bilinear enlargement by 2 is an insertion of zeros and a FIR, too, but with other pixels around the image:

- the enlargement repeats the border pixels, so the input is padded with them;
- the convolution reads zeros around the enlarged image, where the FIR goes on with the border pixels. These products are subtracted
  from the border of the result.

So the convolution comes in front of the FIR, at a quarter of the multiplications.
"""

from __future__ import annotations

import numpy as np

from stylert.export.phase_weights import phase_weights
from stylert.export.restoration.graph import RestorationGraph

#: Bilinear enlargement by 2 on one axis, after an insertion of zeros.
BILINEAR = np.array([1, 3, 3, 1]) / 4


def enlarged(g: RestorationGraph, name: str, x: str) -> str:
    """Bilinear enlargement of `[N, C, H, W]` by 2."""
    scales = g.constant(np.array([1, 1, 2, 2]))
    return g.node("Resize", [x, "", scales], name, mode="linear", coordinate_transformation_mode="half_pixel")


def bilinear_up_conv(g: RestorationGraph, name: str, x: str, weight: np.ndarray, side: int) -> str:
    """The 3x3 convolution of the bilinearly enlarged input.

    Args:
        g: The graph.
        name: Name of the layer.
        x: `[N, I, side / 2, side / 2]`.
        weight: `[O, I, 3, 3]`, of a correlation.
        side: Side of the result, in pixels.

    Returns:
        `[N, O, side, side]`.
    """
    flipped, outputs = weight[:, :, ::-1, ::-1], weight.shape[0]
    if g.plan.phases:
        # The four phases begin one row and one column too early. A zero in front of the taps skips them.
        padded = _repeated_border(g, f"{name}.padded", x, 2, 1)
        y = phases(g, name, padded, flipped, padded_with_zeros=False)
        taps = np.concatenate([[0], BILINEAR])
    else:
        padded = _repeated_border(g, f"{name}.padded", x, 1, 1)
        y = g.transposed(name, padded, flipped, pad=1)
        taps = BILINEAR
    y = g.depthwise(f"{name}.filtered", y, np.outer(taps, taps), outputs, [0] * 4)
    return _without_outside(g, name, x, y, weight, side)


def zero_padded_up_conv(g: RestorationGraph, name: str, x: str, weight: np.ndarray) -> str:
    """The up layer of StyleGAN2: `[N, I, H, W]` to `[N, O, 2 H, 2 W]`. `weight` is that of a transposed convolution."""
    outputs = weight.shape[0]
    if g.plan.phases:
        y, pads = phases(g, name, x, weight, padded_with_zeros=True), [1, 1, 0, 0]
    else:
        y, pads = g.transposed(name, x, weight, pad=0), [1, 1, 1, 1]
    return g.depthwise(f"{name}.filtered", y, np.outer(BILINEAR, BILINEAR), outputs, pads)


def phases(g: RestorationGraph, name: str, x: str, weight: np.ndarray, padded_with_zeros: bool) -> str:
    """A stride-2 transposed convolution as one 2x2 convolution to four phases. It has a row and a column more."""
    y = g.product(name, x, phase_weights(weight), padded=padded_with_zeros)
    return g.node("DepthToSpace", [y], f"{name}.shuffled", blocksize=2, mode="DCR")


def _repeated_border(g: RestorationGraph, name: str, x: str, before: int, after: int) -> str:
    return g.node("Pad", [x, g.ints(0, 0, before, before, 0, 0, after, after)], name, mode="edge")


def _without_outside(g: RestorationGraph, name: str, x: str, y: str, weight: np.ndarray, side: int) -> str:
    """`y` minus the products of its border with the pixels outside of the enlarged image.

    Those pixels equal the border pixels of `x`, enlarged along the border.
    """
    strips = {}
    for axis in (2, 3):  # rows above and below, then columns to the left and right
        for end, tap in (("first", 0), ("last", 2)):
            part = f"{name}.{'rows' if axis == 2 else 'columns'}_{end}"
            line = _slice(g, f"{part}_line", x, axis, 0 if tap == 0 else -1)
            scales = [1, 1, 1, 2] if axis == 2 else [1, 1, 2, 1]
            resized = g.node(
                "Resize",
                [line, "", g.constant(np.array(scales))],
                f"{part}_enlarged",
                mode="linear",
                coordinate_transformation_mode="half_pixel",
            )
            if axis == 2:
                # The rows have the corners, so they go on outside. The columns then read zeros there.
                resized = g.node("Pad", [resized, g.ints(0, 0, 0, 1, 0, 0, 0, 1)], f"{part}_around", mode="edge")
                kernel, pads = weight[:, :, tap : tap + 1, :], [0, 0, 0, 0]
            else:
                kernel, pads = weight[:, :, :, tap : tap + 1], [1, 0, 1, 0]
            outside = g.node("Conv", [resized, g.signal(f"{part}_weight", kernel)], f"{part}_outside", pads=pads)
            strips[axis, end] = outside
    for axis, word in ((2, "rows"), (3, "columns")):
        first = g.node("Sub", [_slice(g, f"{name}.{word}_0", y, axis, 0), strips[axis, "first"]], f"{name}.{word}_0_inside")
        last = g.node("Sub", [_slice(g, f"{name}.{word}_1", y, axis, -1), strips[axis, "last"]], f"{name}.{word}_1_inside")
        middle = g.node("Slice", [y, g.ints(1), g.ints(side - 1), g.ints(axis)], f"{name}.{word}_between")
        y = g.node("Concat", [first, middle, last], f"{name}.{word}_inside", axis=axis)
    return y


def _slice(g: RestorationGraph, name: str, x: str, axis: int, at: int) -> str:
    """The first line of an axis, or the last one."""
    begin, end = (0, 1) if at == 0 else (-1, 2**31 - 1)
    return g.node("Slice", [x, g.ints(begin), g.ints(end), g.ints(axis)], name)
