"""The two operators as ONNX functions of domain `stylert`, version 1: their nodes and their bodies. No torch.

A function body lets a node of an unknown domain run anywhere. ONNX Runtime and TensorRT-RTX inline it, and TensorRT
replaces the node by its plugin. Every attribute is a number, because a body can only compute with attributes and pass
them on. Constants are combined in float32 and cast last, because runtimes fold float16 arithmetic less readily.
"""

from __future__ import annotations

import onnx
import onnx.parser

DOMAIN = "stylert"
DOMAIN_VERSION = 1
OPSET = 20

#: Upfirdn2d(x, f) -> y.
#:
#: - x `[N, C, H, W]`, f `[fh, fw]`, y `[N, C, H', W']`.
#: - `up`, `down`: `[y, x]`. `padding`: `[top, bottom, left, right]`, negative crops. `flip`: 1 correlates. `gain`: any
#:   number.
#: - `group` must be C. A function cannot compute the attribute `group` of its depthwise convolution.
UPFIRDN2D = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
Upfirdn2d <up, down, padding, flip, gain, group> (x, f) => (y)
{{
    up_yx = Constant <value_ints: ints = @up> ()
    down_yx = Constant <value_ints: ints = @down> ()
    pad = Constant <value_ints: ints = @padding> ()
    flip_i = Constant <value_int: int = @flip> ()
    gain_f = Constant <value_float: float = @gain> ()
    groups = Constant <value_int: int = @group> ()
    first = Constant <value_ints: ints = [0, 2]> ()
    second = Constant <value_ints: ints = [1, 3]> ()
    axes_f = Constant <value_ints: ints = [0, 1]> ()
    axes_x = Constant <value_ints: ints = [2, 3]> ()
    one = Constant <value_ints: ints = [1]> ()
    ones = Constant <value_ints: ints = [1, 1]> ()
    zeros = Constant <value_ints: ints = [0, 0]> ()
    far = Constant <value_ints: ints = [1073741824, 1073741824]> ()
    shape1 = Constant <value_ints: ints = [1]> ()

    flips = Mul (ones, flip_i)
    unflipped = Sub (ones, flips)
    step = Sub (unflipped, flips)
    start = Neg (flips)
    end = Mul (far, step)
    oriented = Slice (f, start, end, axes_f, step)
    taps = Cast <to = 1> (oriented)
    scaled = Mul (taps, gain_f)
    plane = Unsqueeze (scaled, axes_f)
    count = Reshape (groups, shape1)
    repeats = Concat <axis = 0> (count, one, ones)
    tiled = Tile (plane, repeats)
    kernel = CastLike (tiled, x)

    full = ConvTranspose <strides: ints = @up, group: int = @group> (x, kernel)
    size = Shape (f)
    pad_first = Gather (pad, first)
    pad_second = Gather (pad, second)
    reach = Sub (size, ones)
    before = Sub (pad_first, reach)
    cut = Sub (pad_second, size)
    after = Add (cut, up_yx)
    grow_before = Max (before, zeros)
    grow_after = Max (after, zeros)
    pads = Concat <axis = 0> (grow_before, grow_after)
    value = Constant <value_float: float = 0.0> ()
    value_t = CastLike (value, x)
    padded = Pad (full, pads, value_t, axes_x)
    crop_before = Sub (grow_before, before)
    crop_after = Sub (after, grow_after)
    uncropped = Equal (crop_after, zeros)
    stop = Where (uncropped, far, crop_after)
    y = Slice (padded, crop_before, stop, axes_x, down_yx)
}}
"""

#: ModulatedConv2d(x, weight, style, demod, noise, bias, f) -> y.
#:
#: - x `[N or 1, I, H, W]`, weight `[O, I, k, k]`, style `[N, I]`, demod `[N, O]`, noise
#:   `[1 or N, 1, H' or 1, W' or 1]`, bias `[O]`, f `[4, 4]`, y `[N, O, H', W']`.
#: - `up`: 1, or 2 with k = 3, which makes H' = 2 H. `alpha`: slope of the leaky ReLU, 1 is linear. `gain`: above 0.
#:   `clamp`: bound of |y|, 0 is no bound.
#: - `group` must be O, as above.
MODULATED_CONV2D = f"""
<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>
ModulatedConv2d <up, alpha, gain, clamp, group> (x, weight, style, demod, noise, bias, f) => (y)
{{
    up_i = Constant <value_int: int = @up> ()
    gain_f = Constant <value_float: float = @gain> ()
    clamp_f = Constant <value_float: float = @clamp> ()
    groups = Constant <value_int: int = @group> ()
    two = Constant <value_int: int = 2> ()
    zero_f = Constant <value_float: float = 0.0> ()
    hw = Constant <value_ints: ints = [2, 3]> ()
    yx = Constant <value_ints: ints = [1, 2]> ()

    scale = Unsqueeze (style, hw)
    modulated = Mul (x, scale)
    is_up = Equal (up_i, two)
    convolved = If (is_up) <
        then_branch = upsampling () => (up_y) {{
            swapped = Transpose <perm = [1, 0, 2, 3]> (weight)
            full = ConvTranspose <strides = [2, 2]> (modulated, swapped)
            four = Constant <value_float: float = 4.0> ()
            f_f = Cast <to = 1> (f)
            f_gain = Mul (f_f, four)
            neg = Constant <value_ints: ints = [-1, -1]> ()
            low = Constant <value_ints: ints = [-1073741824, -1073741824]> ()
            f_axes = Constant <value_ints: ints = [0, 1]> ()
            f_flipped = Slice (f_gain, neg, low, f_axes, neg)
            f_plane = Unsqueeze (f_flipped, f_axes)
            one1 = Constant <value_ints: ints = [1]> ()
            ones3 = Constant <value_ints: ints = [1, 1, 1]> ()
            count = Reshape (groups, one1)
            repeats = Concat <axis = 0> (count, ones3)
            tiled = Tile (f_plane, repeats)
            kernel = CastLike (tiled, x)
            up_y = Conv <pads = [1, 1, 1, 1], group: int = @group> (full, kernel)
        }},
        else_branch = plain () => (plain_y) {{
            plain_y = Conv <auto_pad = "SAME_UPPER"> (modulated, weight)
        }}
    >
    gain_t = CastLike (gain_f, x)
    demod_gain = Mul (demod, gain_t)
    d = Unsqueeze (demod_gain, hw)
    demodulated = Mul (convolved, d)
    noise_f = Cast <to = 1> (noise)
    noise_gain_f = Mul (noise_f, gain_f)
    noise_gain = CastLike (noise_gain_f, x)
    noisy = Add (demodulated, noise_gain)
    bias_f = Cast <to = 1> (bias)
    bias_gain_f = Mul (bias_f, gain_f)
    bias_gain = CastLike (bias_gain_f, x)
    b = Unsqueeze (bias_gain, yx)
    biased = Add (noisy, b)
    activated = LeakyRelu <alpha: float = @alpha> (biased)
    has_clamp = Greater (clamp_f, zero_f)
    y = If (has_clamp) <
        then_branch = clamping () => (clamped) {{
            high = CastLike (clamp_f, x)
            low_f = Neg (clamp_f)
            low_t = CastLike (low_f, x)
            clamped = Clip (activated, low_t, high)
        }},
        else_branch = passing () => (same) {{
            same = Identity (activated)
        }}
    >
}}
"""


def function_protos() -> list[onnx.FunctionProto]:
    """The bodies of both operators, for a model that uses them."""
    return [onnx.parser.parse_function(UPFIRDN2D), onnx.parser.parse_function(MODULATED_CONV2D)]


def opset_imports() -> list[onnx.OperatorSetIdProto]:
    """The operator sets that a model with these functions imports."""
    return [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
