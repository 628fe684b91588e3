"""The Triton kernels of ModulatedConv2d; `modulated_conv2d.py` gives their formula and launches them.

All use the parts in `conv_kernel_parts.py`: `tile_coordinates` and `pixels_of` find a program's pixels and channels,
`gemm_loop` sums, and `epilogue` ends the layer.

- `modulated_conv2d_kernel`: the whole layer, one tile of the output per program. It is also the TensorRT plugin.
- `rgb_kernel`: a program has every output channel of its pixels. So it computes torgb too, from its registers, and adds
  the upsampled image of the block below.
- `split_kernel` and `sum_kernel`: a layer of few pixels has few tiles, so several programs share a tile. Each adds a
  part of the sum and writes it to a workspace. The second kernel adds these parts in a fixed order.
"""

# Kernels are compiled by Triton, whose arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from stylert.plugins.triton.conv_kernel_parts import (
    epilogue,
    gemm_loop,
    pixels_of,
    store_image_channel,
    store_tile,
    tile_coordinates,
)


@triton.jit
def modulated_conv2d_kernel(
    x_ptr, w_ptr, style_ptr, demod_ptr, noise_ptr, bias_ptr, f_ptr, n, h, w, i, o, x_n, noise_n, noise_y, noise_x, y_ptr,
    HAS_STYLE: tl.constexpr, HAS_DEMOD: tl.constexpr, HAS_NOISE: tl.constexpr, HAS_BIAS: tl.constexpr,
    UP: tl.constexpr, KSIZE: tl.constexpr, SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr,
    NHWC: tl.constexpr, OHWI: tl.constexpr, FOLD: tl.constexpr, TAPS: tl.constexpr, SHIFT: tl.constexpr,
    PER_SAMPLE: tl.constexpr, PRECISION: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of the layer: `BLOCK_M` pixels by `BLOCK_N` channels of one phase.

    With `PER_SAMPLE` the pixels are of one sample, else of the whole batch. `KSIZE` is the width of the kernel in the
    sum. With `FOLD` above 0 that is a phase kernel. It is computed here, from a weight of width `FOLD` and a FIR of
    `TAPS`. The weight then has no phase axis.
    """
    block, phase, oc = tile_coordinates(n, h * w, o, UP * UP, PER_SAMPLE, GROUP, BLOCK_M, BLOCK_N)
    sample, row_n, p, row_ok = pixels_of(block, n, h * w, PER_SAMPLE, BLOCK_M)
    steps = KSIZE * KSIZE * ((i + BLOCK_K - 1) // BLOCK_K)
    acc = gemm_loop(
        x_ptr, w_ptr, style_ptr, f_ptr, h, w, i, o, x_n, sample, row_n, p, row_ok, oc, phase, 0, steps,
        HAS_STYLE, UP, KSIZE, NHWC, OHWI, FOLD, TAPS, SHIFT, PER_SAMPLE, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    oy = (p // w) * UP + phase // UP
    ox = (p % w) * UP + phase % UP
    v = epilogue(
        acc, demod_ptr, noise_ptr, bias_ptr, o, noise_n, noise_y, noise_x, sample, row_n, oy, ox, row_ok, oc,
        HAS_DEMOD, HAS_NOISE, HAS_BIAS, SLOPE, GAIN, CLAMP, PER_SAMPLE,
    )  # fmt: skip
    store_tile(y_ptr, v, h * w * (UP * UP), o, sample, row_n, oy * (w * UP) + ox, row_ok, oc, NHWC)


@triton.jit
def rgb_kernel(
    x_ptr, w_ptr, style_ptr, demod_ptr, noise_ptr, bias_ptr, rgb_w_ptr, rgb_style_ptr, rgb_bias_ptr, skip_ptr, f_ptr,
    n, h, w, i, o, x_n, noise_n, noise_y, noise_x, image_ptr, y_ptr,
    HAS_STYLE: tl.constexpr, HAS_DEMOD: tl.constexpr, HAS_NOISE: tl.constexpr, HAS_BIAS: tl.constexpr,
    KSIZE: tl.constexpr, SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr,
    RGB: tl.constexpr, RGB_BIAS: tl.constexpr, RGB_CLAMP: tl.constexpr, HAS_SKIP: tl.constexpr, HAS_Y: tl.constexpr,
    PER_SAMPLE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of `BLOCK_M` pixels with all their `o <= BLOCK_N` channels, and the `RGB` channels of their image.

        image[n, p, c] = upsampled skip[n, p, c] + clamp(sum_o rgb_w[c, o] * rgb_style[n, o] * y[n, p, o] + rgb_bias[c])

    Without `HAS_Y` the activations `y` are not written. The last layer does not need them.
    """
    block = tl.program_id(0)
    oc = tl.arange(0, BLOCK_N)
    sample, row_n, p, row_ok = pixels_of(block, n, h * w, PER_SAMPLE, BLOCK_M)
    steps = KSIZE * KSIZE * ((i + BLOCK_K - 1) // BLOCK_K)
    acc = gemm_loop(
        x_ptr, w_ptr, style_ptr, x_ptr, h, w, i, o, x_n, sample, row_n, p, row_ok, oc, 0, 0, steps,
        HAS_STYLE, 1, KSIZE, True, True, 0, 0, 0, PER_SAMPLE, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    oy = p // w
    ox = p % w
    v = epilogue(
        acc, demod_ptr, noise_ptr, bias_ptr, o, noise_n, noise_y, noise_x, sample, row_n, oy, ox, row_ok, oc,
        HAS_DEMOD, HAS_NOISE, HAS_BIAS, SLOPE, GAIN, CLAMP, PER_SAMPLE,
    )  # fmt: skip
    if HAS_Y:
        store_tile(y_ptr, v, h * w, o, sample, row_n, p, row_ok, oc, True)

    o_ok = oc < o
    if PER_SAMPLE:
        s = tl.load(rgb_style_ptr + sample * o + oc, mask=o_ok, other=0.0).to(tl.float32)[None, :]
    else:
        style_rows = rgb_style_ptr + (row_n * o)[:, None] + oc[None, :]
        s = tl.load(style_rows, mask=row_ok[:, None] & o_ok[None, :], other=0.0).to(tl.float32)
    v = v * s
    for c in tl.static_range(RGB):
        to_rgb = tl.load(rgb_w_ptr + c * o + oc, mask=o_ok, other=0.0).to(tl.float32)
        rgb = tl.sum(v * to_rgb[None, :], axis=1)
        store_image_channel(
            image_ptr, rgb, rgb_bias_ptr, skip_ptr, f_ptr, sample, row_n, p, oy, ox, h, w, row_ok, c,
            RGB, RGB_BIAS, RGB_CLAMP, HAS_SKIP,
        )  # fmt: skip


@triton.jit
def split_kernel(
    x_ptr, w_ptr, style_ptr, n, h, w, i, o, x_n, work_ptr,
    HAS_STYLE: tl.constexpr, UP: tl.constexpr, KSIZE: tl.constexpr, PER_SAMPLE: tl.constexpr, PRECISION: tl.constexpr,
    SPLITS: tl.constexpr, GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One of `SPLITS` parts of the sum of a tile, written to `work[split, phase, sample * pixel, channel]`."""
    pixels = h * w
    block, phase, oc = tile_coordinates(n, pixels, o, UP * UP, PER_SAMPLE, GROUP, BLOCK_M, BLOCK_N)
    sample, row_n, p, row_ok = pixels_of(block, n, pixels, PER_SAMPLE, BLOCK_M)
    split = tl.program_id(1)
    steps = KSIZE * KSIZE * ((i + BLOCK_K - 1) // BLOCK_K)
    acc = gemm_loop(
        x_ptr, w_ptr, style_ptr, x_ptr, h, w, i, o, x_n, sample, row_n, p, row_ok, oc, phase,
        split * steps // SPLITS, (split + 1) * steps // SPLITS,
        HAS_STYLE, UP, KSIZE, True, True, 0, 0, 0, PER_SAMPLE, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    first = (split * (UP * UP) + phase).to(tl.int64) * (n * pixels)
    rows = work_ptr + (first + (sample + row_n) * pixels + p)[:, None] * o + oc[None, :]
    tl.store(rows, acc, mask=row_ok[:, None] & (oc < o)[None, :])


@triton.jit
def sum_kernel(
    work_ptr, demod_ptr, noise_ptr, bias_ptr, n, h, w, o, noise_n, noise_y, noise_x, y_ptr,
    HAS_DEMOD: tl.constexpr, HAS_NOISE: tl.constexpr, HAS_BIAS: tl.constexpr,
    UP: tl.constexpr, SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The sum of the parts of `split_kernel`, in their order, and the epilogue of the layer."""
    pixels = h * w
    block, phase, oc = tile_coordinates(n, pixels, o, UP * UP, False, 1, BLOCK_M, BLOCK_N)
    sample, row_n, p, row_ok = pixels_of(block, n, pixels, False, BLOCK_M)
    ok = row_ok[:, None] & (oc < o)[None, :]
    rows = work_ptr + (phase.to(tl.int64) * (n * pixels) + row_n * pixels + p)[:, None] * o + oc[None, :]
    part_stride = tl.full((), UP * UP, tl.int64) * n * pixels * o
    acc = tl.load(rows, mask=ok, other=0)
    for split in range(1, SPLITS):
        acc += tl.load(rows + split * part_stride, mask=ok, other=0)
    oy = (p // w) * UP + phase // UP
    ox = (p % w) * UP + phase % UP
    v = epilogue(
        acc, demod_ptr, noise_ptr, bias_ptr, o, noise_n, noise_y, noise_x, sample, row_n, oy, ox, row_ok, oc,
        HAS_DEMOD, HAS_NOISE, HAS_BIAS, SLOPE, GAIN, CLAMP, False,
    )  # fmt: skip
    store_tile(y_ptr, v, pixels * (UP * UP), o, sample, row_n, oy * (w * UP) + ox, row_ok, oc, True)
