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
#: The phases of a transposed convolution on one axis: their taps as a correlation, and the padding in front.
PHASES = (("even", slice(None, None, -2), 1), ("odd", slice(1, 2), 0))


def enlarged(g: RestorationGraph, name: str, x: str) -> str:
    """Bilinear enlargement of `[N, C, H, W]` by 2."""
    return _resized(g, name, x, [1, 1, 2, 2])


def bilinear_up_conv(
    g: RestorationGraph, name: str, x: str, weight: np.ndarray, bias: np.ndarray, side: int, demod: str | None = None
) -> str:
    """The 3x3 convolution of the bilinearly enlarged input, times the demodulation, with its bias.

    Args:
        g: The graph.
        name: Name of the layer.
        x: `[N, I, side / 2, side / 2]`.
        weight: `[O, I, 3, 3]`, of a correlation.
        bias: `[O]`, in the scale of the signals.
        side: Side of the result, in pixels.
        demod: `[N, O, 1, 1]`, or None for no demodulation.

    Returns:
        `[N, O, side, side]`.
    """
    flipped = weight[:, :, ::-1, ::-1]
    padded = g.node("Pad", [x, g.ints(0, 0, 1, 1, 0, 0, 1, 1)], f"{name}.padded", mode="edge")
    if g.plan.up_form == "transposed":
        y, taps = g.transposed(name, padded, flipped, pad=1), BILINEAR
    else:
        # The phases begin one row and one column too early. A zero in front of the taps skips them.
        y, taps = _phases(g, name, padded, flipped, side // 2 + 2, after=0), np.concatenate([[0], BILINEAR])
    y = _filtered(g, name, y, taps, bias, [0] * 4, demod)
    return _without_outside(g, name, x, y, weight, side, demod)


def zero_padded_up_conv(
    g: RestorationGraph, name: str, x: str, weight: np.ndarray, bias: np.ndarray, side: int, demod: str | None = None
) -> str:
    """As `bilinear_up_conv`, of the up layer of StyleGAN2. `weight` is that of a transposed convolution."""
    if g.plan.up_form == "transposed":
        y, pads = g.transposed(name, x, weight, pad=0), [1, 1, 1, 1]
    else:
        y, pads = _phases(g, name, x, weight, side // 2, after=1), [1, 1, 0, 0]
    return _filtered(g, name, y, BILINEAR, bias, pads, demod)


def _filtered(
    g: RestorationGraph, name: str, y: str, taps: np.ndarray, bias: np.ndarray, pads: list[int], demod: str | None
) -> str:
    """The FIR of `y` times the demodulation. Its convolution adds the bias, which saves a pass."""
    if demod is not None:
        y = g.node("Mul", [y, demod], f"{name}.demodulated")
    return g.depthwise(f"{name}.filtered", y, np.outer(taps, taps), len(bias), pads, bias)


def _phases(g: RestorationGraph, name: str, x: str, weight: np.ndarray, side: int, after: int) -> str:
    """A stride-2 transposed convolution as four phases, with zeros in front of the image and `after` pixels of them behind it.

    On each axis, even pixels have the taps 2 and 0 of two neighbours, and odd pixels have tap 1 of the second of these. `side` is
    that of the input, in pixels.
    """
    if g.plan.up_form == "phases":
        phases = g.product(name, x, phase_weights(weight), pads=[1, 1, after, after])
        return g.node("DepthToSpace", [phases], f"{name}.shuffled", blocksize=2, mode="DCR")
    # Two concatenations interleave the pixels, over x, then over y. DepthToSpace took twice the time of ONNX Runtime on an AMD Zen 5.
    rows = []
    for y_name, y_taps, y_before in PHASES:
        columns = []
        for x_name, x_taps, x_before in PHASES:
            part = f"{name}.{y_name}_{x_name}"
            phase = g.product(part, x, weight[:, :, y_taps, x_taps], pads=[y_before, x_before, after, after])
            columns.append(g.node("Unsqueeze", [phase, g.ints(4)], f"{part}.pixels"))
        row = g.node("Concat", columns, f"{name}.{y_name}_pairs", axis=4)
        rows.append(g.node("Reshape", [row, g.ints(0, 0, 0, 1, -1)], f"{name}.{y_name}_rows"))
    pairs = g.node("Concat", rows, f"{name}.row_pairs", axis=3)
    return g.node("Reshape", [pairs, g.ints(0, 0, -1, 2 * (side + after))], f"{name}.shuffled")


def _without_outside(g: RestorationGraph, name: str, x: str, y: str, weight: np.ndarray, side: int, demod: str | None) -> str:
    """`y` minus the demodulated products of its border with the pixels outside of the enlarged image.

    Those pixels equal the border pixels of `x`, enlarged along the border.
    """
    for axis, word in ((2, "rows"), (3, "columns")):
        strips = []
        for end, tap in (("first", 0), ("last", 2)):
            part = f"{name}.{word}_{end}"
            line = _line(g, f"{part}_line", x, axis, tap == 0)
            line = _resized(g, f"{part}_enlarged", line, [1, 1, 1, 2] if axis == 2 else [1, 1, 2, 1])
            if axis == 2:
                # The rows have the corners, so they go on outside. The columns then read zeros there.
                line = g.node("Pad", [line, g.ints(0, 0, 0, 1, 0, 0, 0, 1)], f"{part}_around", mode="edge")
                kernel, pads = weight[:, :, tap : tap + 1, :], [0, 0, 0, 0]
            else:
                kernel, pads = weight[:, :, :, tap : tap + 1], [1, 0, 1, 0]
            # The kernel is negative: its products are added.
            outside = g.node("Conv", [line, g.signal(f"{part}_weight", -kernel)], f"{part}_outside", pads=pads)
            if demod is not None:
                outside = g.node("Mul", [outside, demod], f"{part}_demodulated")
            strips.append(g.node("Add", [_line(g, f"{part}_all", y, axis, tap == 0), outside], f"{part}_inside"))
        lines = g.node("Concat", strips, f"{name}.{word}_lines", axis=axis)
        places = np.array([0, side - 1]).reshape((1, 1, 2, 1) if axis == 2 else (1, 1, 1, 2))
        shape = g.node("Shape", [lines], f"{name}.{word}_shape")
        places_of_all = g.node("Expand", [g.constant(places, np.int64), shape], f"{name}.{word}_places")
        y = g.node("ScatterElements", [y, places_of_all, lines], f"{name}.{word}_inside", axis=axis)
    return y


def _line(g: RestorationGraph, name: str, x: str, axis: int, first: bool) -> str:
    """The first or the last line of an axis."""
    begin, stop = (0, 1) if first else (-1, 2**31 - 1)
    return g.node("Slice", [x, g.ints(begin), g.ints(stop), g.ints(axis)], name)


def _resized(g: RestorationGraph, name: str, x: str, scales: list[int]) -> str:
    inputs = [x, "", g.constant(scales)]
    return g.node("Resize", inputs, name, mode="linear", coordinate_transformation_mode="half_pixel")
