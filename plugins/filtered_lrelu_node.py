"""FilteredLrelu as an ONNX function of domain `stylert`: its nodes, and its body. No torch.

`onnx_functions.py` says how bodies are written, and lists this one with the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from stylert.plugins.filtered_lrelu import FILTERED_LRELU_RANKS, FilteredLrelu
from stylert.plugins.onnx_body_parts import clamping, filter_padding
from stylert.plugins.onnx_nodes import Sizes, check_group, checked_attributes
from stylert.plugins.shapes import Epilogue, check_ranks

#: FilteredLrelu(x, bias, fu, fd) -> y.
#:
#: - x `[N, C, H, W]`, bias `[C]`, fu `[uh, uw]`, fd `[dh, dw]`, y `[N, C, H', W']`.
#: - `up`, `down`: `[y, x]`. `padding`: `[top, bottom, left, right]` behind the zero insertion, negative crops.
#: - `alpha`: slope of the leaky ReLU, 1 is linear. `gain`: above 0. `clamp`: bound between the filters, 0 is no bound.
#: - `group` must be C. A function cannot compute the attribute `group` of its depthwise convolutions.
#:
#: The filters are convolved. The leaky ReLU is positively homogeneous, so its gain is folded into `fu`.
FILTERED_LRELU_BODY = f"""
FilteredLrelu <up, down, padding, alpha, gain, clamp, group> (x, bias, fu, fd) => (y)
{{
    up_yx = Constant <value_ints: ints = @up> ()
    pad = Constant <value_ints: ints = @padding> ()
    gain_f = Constant <value_float: float = @gain> ()
    clamp_f = Constant <value_float: float = @clamp> ()
    groups = Constant <value_int: int = @group> ()
    zero_f = Constant <value_float: float = 0.0> ()
    first = Constant <value_ints: ints = [0, 2]> ()
    second = Constant <value_ints: ints = [1, 3]> ()
    axes_f = Constant <value_ints: ints = [0, 1]> ()
    axes_x = Constant <value_ints: ints = [2, 3]> ()
    yx = Constant <value_ints: ints = [1, 2]> ()
    one = Constant <value_ints: ints = [1]> ()
    ones = Constant <value_ints: ints = [1, 1]> ()
    ones3 = Constant <value_ints: ints = [1, 1, 1]> ()
    zeros = Constant <value_ints: ints = [0, 0]> ()
    far = Constant <value_ints: ints = [1073741824, 1073741824]> ()
    neg = Constant <value_ints: ints = [-1, -1]> ()
    low = Constant <value_ints: ints = [-1073741824, -1073741824]> ()

    bias_x = CastLike (bias, x)
    b = Unsqueeze (bias_x, yx)
    biased = Add (x, b)

    area = ReduceProd <keepdims = 0> (up_yx)
    area_f = Cast <to = 1> (area)
    up_gain = Mul (area_f, gain_f)
    fu_f = Cast <to = 1> (fu)
    fu_scaled = Mul (fu_f, up_gain)
    fu_plane = Unsqueeze (fu_scaled, axes_f)
    count = Reshape (groups, one)
    repeats = Concat <axis = 0> (count, ones3)
    fu_tiled = Tile (fu_plane, repeats)
    fu_kernel = CastLike (fu_tiled, x)
    full = ConvTranspose <strides: ints = @up, group: int = @group> (biased, fu_kernel)
    {filter_padding("fu")}
    upsampled = Slice (padded, crop_before, stop, axes_x, ones)

    activated = LeakyRelu <alpha: float = @alpha> (upsampled)
    {clamping("activated", "bounded")}

    fd_flipped = Slice (fd, neg, low, axes_f, neg)
    fd_plane = Unsqueeze (fd_flipped, axes_f)
    fd_tiled = Tile (fd_plane, repeats)
    fd_kernel = CastLike (fd_tiled, x)
    y = Conv <strides: ints = @down, group: int = @group> (bounded, fd_kernel)
}}
"""

#: Attribute name to type of its values and how many. None is one value that is not in a list.
ATTRIBUTES = {
    "up": (int, 2),
    "down": (int, 2),
    "padding": (int, 4),
    "alpha": (float, None),
    "gain": (float, None),
    "clamp": (float, None),
    "group": (int, None),
}


@dataclass(frozen=True)
class FilteredLreluNode:
    """The attributes of a FilteredLrelu node.

    Attributes:
        spec: All of them but `group`.
        group: Number of channels.
    """

    #: Input name to number of dimensions, in the node's order.
    ranks: ClassVar[Mapping[str, int]] = FILTERED_LRELU_RANKS

    spec: FilteredLrelu
    group: int

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> FilteredLreluNode:
        """From the values of the attributes by name.

        Raises:
            ValueError: An attribute is missing, unknown, of another type or count, or out of its range.
        """
        values = checked_attributes("FilteredLrelu", attributes, ATTRIBUTES)
        check_group("FilteredLrelu", values["group"])
        try:
            epilogue = Epilogue(values["alpha"], values["gain"], values["clamp"])
            resampling = FilteredLrelu.of(values["up"], values["down"], values["padding"])
        except ValueError as error:
            raise ValueError(f"FilteredLrelu: {str(error).removeprefix('filtered_lrelu: ')}") from None
        return cls(FilteredLrelu(resampling.up, resampling.down, epilogue), values["group"])

    def check_shapes(self, shapes: Mapping[str, Sizes]) -> None:
        """Check the shapes of the inputs by name, as far as they are known.

        Raises:
            ValueError: A wrong number of dimensions, a `group` that is not the number of channels, or no output.
        """
        check_ranks("FilteredLrelu", shapes, self.ranks)
        x, bias, fu, fd = (shapes[name] for name in self.ranks)
        for name, channels in (("x", x[1]), ("bias", bias[0])):
            if channels not in (None, self.group):
                raise ValueError(f"FilteredLrelu: group is {self.group}, not {channels}, the channels of {name}")
        for axis in (0, 1):
            size, up_taps, down_taps = x[2 + axis], fu[axis], fd[axis]
            if size is None or up_taps is None or down_taps is None:
                continue
            padded = size * self.spec.up.up[axis] + sum(self.spec.up.sides(axis))
            if min(up_taps, down_taps) < 1 or padded < up_taps + down_taps - 1:
                taps = f"filters of {up_taps} and {down_taps} taps"
                raise ValueError(f"FilteredLrelu: {size} pixels of axis {'yx'[axis]} leave no output behind {taps}")
