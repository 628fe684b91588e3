"""torgb in Triton: the image of a block from its activations, in one pass over them.

    image[n, p, c] = upsampled skip[n, p, c] + clamp(sum_i w[c, i] * s[n, i] * x[n, p, i] + b[c])

The products are float32, whatever the dtype of `x`. A layer of up to 128 channels does this within its convolution
(`modulated_conv2d_into` with `rgb`). This kernel is for wider layers, whose activations no single program holds.
"""

# Kernels are compiled by Triton, whose arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from stylert.plugins.shapes import MAX_OFFSET
from stylert.plugins.triton.bias_act import check_kernel_dtype
from stylert.plugins.triton.conv_kernel_parts import store_image_channel
from stylert.plugins.triton.operand_checks import check_contiguous, check_shapes

#: Pixels and input channels of one step of a program.
BLOCK_P, BLOCK_I = 16, 64


@dataclass(frozen=True)
class Rgb:
    """torgb of a layer's result, and the image that it adds to. All tensors are contiguous.

    Attributes:
        image: Output, `[N, H, W, C]` with C from 1 to 4, float32 or uint8. uint8 is the official rounding of [-1, 1].
        weight: `[C, I]`, any float dtype but float64. I is the number of channels of the activations.
        style: `[N, I]`, with torgb's gain; any float dtype but float64.
        bias: `[C]`, any float dtype but float64, or None.
        skip: `[N, H / 2, W / 2, C]` float32, the image of the block below, or None.
        f: `[4, 4]` float32, the FIR filter that upsamples `skip`, or None.
        clamp: Bound of torgb's result before it is added to the image. 0 is no bound.
    """

    image: Any
    weight: Any
    style: Any
    bias: Any | None = None
    skip: Any | None = None
    f: Any | None = None
    clamp: float = 0.0


def to_rgb_into(x: Any, rgb: Rgb) -> None:
    """Write the image of `rgb` from the activations `x`. It is accumulated in float32.

    Args:
        x: `[N, H, W, I]`, contiguous, float16, bfloat16 or float32.
        rgb: torgb and its image.

    Raises:
        ValueError: Operands that do not fit together, or that the kernel cannot serve.
    """
    check_kernel_dtype(x, "torgb: x")
    if len(x.shape) != 4:
        raise ValueError(f"torgb: x is [N, H, W, I], not {list(x.shape)}")
    n, h, w, i = x.shape
    check_rgb(rgb, n, h, w, i)
    check_contiguous("torgb", {"x": x})
    if h * w * i > MAX_OFFSET:
        raise ValueError(f"torgb: a sample of {[h, w, i]} is too large for 32-bit offsets")
    if n * h * w == 0:
        return
    unused = x  # A pointer that the kernel does not read, in place of an absent operand.
    has_skip = rgb.skip is not None
    to_rgb_kernel[(n * triton.cdiv(h * w, BLOCK_P),)](
        x, rgb.weight, rgb.style, unused if rgb.bias is None else rgb.bias,
        rgb.skip if has_skip else unused, rgb.f if has_skip else unused, h, w, i, rgb.image,
        RGB=rgb.image.shape[3], RGB_BIAS=rgb.bias is not None, RGB_CLAMP=rgb.clamp, HAS_SKIP=has_skip,
        BLOCK_P=BLOCK_P, BLOCK_I=BLOCK_I,
    )  # fmt: skip


def check_rgb(rgb: Rgb, n: int, h: int, w: int, i: int) -> None:
    """Check torgb of activations `[n, h, w, i]`.

    Raises:
        ValueError: Operands that do not fit together, or that the kernels cannot serve.
    """
    if len(rgb.image.shape) != 4 or not 1 <= rgb.image.shape[3] <= 4 or not rgb.clamp >= 0:
        raise ValueError("torgb: images are [N, H, W, 1 to 4], and a clamp is not negative")
    if (rgb.skip is None) != (rgb.f is None) or (rgb.skip is not None and (h % 2 or w % 2)):
        raise ValueError("torgb: a skip comes with its filter, and with an even height and width")
    c = rgb.image.shape[3]
    small_operands = {"weight": rgb.weight, "style": rgb.style, "bias": rgb.bias}
    images = {"image": rgb.image, "skip": rgb.skip, "f": rgb.f}
    shapes = {
        "weight": (c, i), "style": (n, i), "bias": (c,),
        "image": (n, h, w, c), "skip": (n, h // 2, w // 2, c), "f": (4, 4),
    }  # fmt: skip
    check_shapes("torgb", small_operands | images, shapes)
    check_contiguous("torgb", small_operands | images)
    for name, t in small_operands.items():
        if t is not None:
            check_kernel_dtype(t, f"torgb: {name}")
    for name, t in images.items():
        allowed = ("torch.float32", "torch.uint8") if name == "image" else ("torch.float32",)
        if t is not None and str(t.dtype) not in allowed:
            raise ValueError(f"torgb: {name} is {t.dtype}, not {' or '.join(allowed)}")


@triton.jit
def to_rgb_kernel(
    x_ptr, w_ptr, style_ptr, bias_ptr, skip_ptr, f_ptr, h, w, i, image_ptr,
    RGB: tl.constexpr, RGB_BIAS: tl.constexpr, RGB_CLAMP: tl.constexpr, HAS_SKIP: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_I: tl.constexpr,
):  # fmt: skip
    """`BLOCK_P` pixels of one sample. Each step reads `BLOCK_I` channels once for all `RGB` channels of the image."""
    blocks = (h * w + BLOCK_P - 1) // BLOCK_P
    pid = tl.program_id(0)
    sample = (pid // blocks).to(tl.int64)
    p = (pid % blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    row_ok = p < h * w
    x_rows = x_ptr + sample * (h * w * i) + (p * i)[:, None]
    red = tl.full((BLOCK_P,), 0.0, tl.float32)
    green = tl.full((BLOCK_P,), 0.0, tl.float32)
    blue = tl.full((BLOCK_P,), 0.0, tl.float32)
    alpha = tl.full((BLOCK_P,), 0.0, tl.float32)
    for i0 in range(0, i, BLOCK_I):
        ch = i0 + tl.arange(0, BLOCK_I)
        ch_ok = ch < i
        v = tl.load(x_rows + ch[None, :], mask=row_ok[:, None] & ch_ok[None, :], other=0.0).to(tl.float32)
        v *= tl.load(style_ptr + sample * i + ch, mask=ch_ok, other=0.0).to(tl.float32)[None, :]
        red += weighted_sum(v, w_ptr + ch, ch_ok)
        if RGB > 1:
            green += weighted_sum(v, w_ptr + i + ch, ch_ok)
        if RGB > 2:
            blue += weighted_sum(v, w_ptr + 2 * i + ch, ch_ok)
        if RGB > 3:
            alpha += weighted_sum(v, w_ptr + 3 * i + ch, ch_ok)
    oy = p // w
    ox = p % w
    row_n = p * 0
    for c in tl.static_range(RGB):
        if c == 0:
            rgb = red
        elif c == 1:
            rgb = green
        elif c == 2:
            rgb = blue
        else:
            rgb = alpha
        store_image_channel(
            image_ptr, rgb, bias_ptr, skip_ptr, f_ptr, sample, row_n, p, oy, ox, h, w, row_ok, c,
            RGB, RGB_BIAS, RGB_CLAMP, HAS_SKIP,
        )  # fmt: skip


@triton.jit
def weighted_sum(v, w_row, ch_ok):
    """The products of `v` `[pixels, channels]` with one row of weights, summed over the channels."""
    weight = tl.load(w_row, mask=ch_ok, other=0.0).to(tl.float32)
    return tl.sum(v * weight[None, :], axis=1)
