"""The parts of the ModulatedConv2d kernels in `conv_kernels.py`.

`tile_coordinates` and `pixels_of` find a program's pixels and channels. `gemm_loop` sums over taps and input channels.
`epilogue` ends the layer and `store_tile` writes it. `store_image_channel` writes torgb's result. `upsampled_skip` and
`folded_tap` apply the FIR filter. The rest multiplies and rounds.

Names that all parts share:

- `n`, `h`, `w`, `i`, `o`: samples, height and width of the input, input and output channels.
- A row of a tile is pixel `p` of sample `sample + row_n`. `row_ok` says whether that pixel exists. `oc` are the tile's
  output channels.
- `x_n`, `x_p`, `x_c`, `w_t` and their like are strides in memory: of a sample, a pixel, a channel and a tap.
"""

# Kernels are compiled by Triton, whose arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from stylert.plugins.constants import LARGEST_8_BIT_VALUE
from stylert.plugins.triton.bias_act import clip

LARGEST_INT8 = tl.constexpr(LARGEST_8_BIT_VALUE["int8"])
LARGEST_FP8 = tl.constexpr(LARGEST_8_BIT_VALUE["fp8"])


@triton.jit
def tile_coordinates(
    n, pixels, o, PHASES: tl.constexpr, PER_SAMPLE: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """This program's block of pixels, its phase and its channels.

    Programs are numbered in groups of `GROUP` blocks of pixels. A group takes all channels and phases, with pixels as
    the fastest index. So programs that run at the same time read the same weights and the same pixels from the L2
    cache.
    """
    blocks_n = (o + BLOCK_N - 1) // BLOCK_N
    columns = blocks_n * PHASES
    pid = tl.program_id(0)
    if GROUP == 1:
        block = pid // columns
        column = pid % columns
    else:
        if PER_SAMPLE:
            blocks = n * ((pixels + BLOCK_M - 1) // BLOCK_M)
        else:
            blocks = (n * pixels + BLOCK_M - 1) // BLOCK_M
        first = pid // (GROUP * columns) * GROUP
        height = tl.minimum(blocks - first, GROUP)
        within = pid % (GROUP * columns)
        block = first + within % height
        column = within // height
    return block, column // blocks_n, (column % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def pixels_of(block, n, pixels, PER_SAMPLE: tl.constexpr, BLOCK_M: tl.constexpr):
    """The rows of a block of pixels.

    Returns the block's sample (0 without `PER_SAMPLE`), and per row: how many samples after it the row lies, the row's
    pixel, and whether that pixel exists.
    """
    if PER_SAMPLE:
        blocks_m = (pixels + BLOCK_M - 1) // BLOCK_M
        sample = block // blocks_m
        p = (block % blocks_m) * BLOCK_M + tl.arange(0, BLOCK_M)
        row_ok = p < pixels
        row_n = tl.full((BLOCK_M,), 0, tl.int32)
    else:
        sample = block * 0
        row = block * BLOCK_M + tl.arange(0, BLOCK_M)
        row_ok = row < n * pixels
        row_n = (row // pixels).to(tl.int64)
        p = row % pixels
    return sample, row_n, p, row_ok


@triton.jit
def gemm_loop(
    x_ptr, w_ptr, style_ptr, f_ptr, h, w, i, o, x_n, sample, row_n, p, row_ok, oc, phase, first, last,
    HAS_STYLE: tl.constexpr, UP: tl.constexpr, KSIZE: tl.constexpr,
    NHWC: tl.constexpr, OHWI: tl.constexpr, FOLD: tl.constexpr, TAPS: tl.constexpr, SHIFT: tl.constexpr,
    PER_SAMPLE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Steps `first` to `last` of the sum over taps and blocks of input channels.

    The sum is float32, or int32 for int8 weights.
    """
    RADIUS: tl.constexpr = KSIZE // 2
    py = p // w
    px = p % w
    o_ok = oc < o
    # One loop over taps and blocks of channels, so that the loads of the next step overlap the products of this step.
    ik = tl.arange(0, BLOCK_K)
    blocks_k = (i + BLOCK_K - 1) // BLOCK_K
    x_p = i if NHWC else 1
    x_c = 1 if NHWC else h * w
    w_t = i if OHWI else 1
    WIDTH: tl.constexpr = FOLD if FOLD > 0 else KSIZE
    w_c = 1 if OHWI else WIDTH * WIDTH
    x_rows = x_ptr + sample.to(tl.int64) * x_n + (row_n * x_n + p * x_p)[:, None] + (ik * x_c)[None, :]
    w_cols = w_ptr + (oc * (WIDTH * WIDTH * i))[None, :] + (ik * w_c)[:, None]
    if FOLD == 0:
        w_cols += phase * o * (WIDTH * WIDTH * i)
    acc = tl.full((BLOCK_M, BLOCK_N), 0, tl.int32 if PRECISION == "int8" else tl.float32)
    for step in range(first, last):
        tap = step // blocks_k
        i0 = (step % blocks_k) * BLOCK_K
        ty = tap // KSIZE - RADIUS
        tx = tap % KSIZE - RADIUS
        inside = row_ok & (py + ty >= 0) & (py + ty < h) & (px + tx >= 0) & (px + tx < w)
        i_ok = i0 + ik < i
        a = tl.load(x_rows + ((ty * w + tx) * x_p + i0 * x_c), mask=inside[:, None] & i_ok[None, :], other=0.0)
        w_ok = i_ok[:, None] & o_ok[None, :]
        if FOLD > 0:
            first_y = phase // UP + SHIFT + 2 * RADIUS - 2 * (tap // KSIZE)
            first_x = phase % UP + SHIFT + 2 * RADIUS - 2 * (tap % KSIZE)
            b = folded_tap(w_cols + i0 * w_c, w_t, w_ok, f_ptr, first_y, first_x, FOLD, TAPS, BLOCK_K, BLOCK_N).to(a.dtype)
        else:
            b = tl.load(w_cols + (tap * w_t + i0 * w_c), mask=w_ok, other=0.0)
        if HAS_STYLE:
            if PER_SAMPLE:
                s = tl.load(style_ptr + sample * i + i0 + ik, mask=i_ok, other=0.0)[None, :]
            else:
                s_mask = row_ok[:, None] & i_ok[None, :]
                s = tl.load(style_ptr + (row_n * i + i0)[:, None] + ik[None, :], mask=s_mask, other=0.0)
            a = modulate(a, s, PRECISION)
        acc = multiply_add(a, b, acc, PRECISION)
    return acc


@triton.jit
def modulate(a, s, PRECISION: tl.constexpr):
    """`a * s` as the tensor cores take it: in 8 bits beside 8-bit weights, else in the dtype of `a`."""
    if PRECISION == "int8":
        a = round_to_int8(a.to(tl.float32) * s.to(tl.float32))
    elif PRECISION == "fp8" or PRECISION == "fp8_hopper":
        a = clip(a.to(tl.float32) * s.to(tl.float32), LARGEST_FP8).to(tl.float8e4nv)
    elif PRECISION == "fp8_ieee":
        a = round_to_fp8(a.to(tl.float32) * s.to(tl.float32))
    elif a.dtype == tl.float16:
        a = a * s.to(tl.float16)
    else:
        a = (a.to(tl.float32) * s.to(tl.float32)).to(a.dtype)
    return a


@triton.jit
def multiply_add(a, b, acc, PRECISION: tl.constexpr):
    """`acc + a @ b`."""
    if PRECISION == "int8":
        acc = tl.dot(a, b, acc, out_dtype=tl.int32)
    elif PRECISION == "fp8":
        acc = tl.dot(a, b, acc)
    elif PRECISION == "fp8_hopper":
        # Hopper's tensor cores keep about 14 bits of an FP8 sum. So the sum of each step is added to `acc` in float32.
        # The addition stands outside: Triton 3.9 drops the bound if it splits a product that has an accumulator.
        acc += tl.dot(a, b, max_num_imprecise_acc=a.shape[1])
    elif PRECISION == "ieee" or PRECISION == "fp8_ieee":
        acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
    else:
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def epilogue(
    acc, demod_ptr, noise_ptr, bias_ptr, o, noise_n, noise_y, noise_x, sample, row_n, oy, ox, row_ok, oc,
    HAS_DEMOD: tl.constexpr, HAS_NOISE: tl.constexpr, HAS_BIAS: tl.constexpr,
    SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, PER_SAMPLE: tl.constexpr,
):  # fmt: skip
    """The end of the layer on a tile of sums: demodulation, noise, bias, leaky ReLU, gain, clamp."""
    v = acc.to(tl.float32)
    o_ok = oc < o
    if HAS_DEMOD:
        if PER_SAMPLE:
            d = tl.load(demod_ptr + sample * o + oc, mask=o_ok, other=0.0)[None, :]
        else:
            d = tl.load(demod_ptr + (row_n * o)[:, None] + oc[None, :], mask=row_ok[:, None] & o_ok[None, :], other=0.0)
        v *= d.to(tl.float32)
    if HAS_NOISE:
        noise_rows = noise_ptr + sample.to(tl.int64) * noise_n + row_n * noise_n + oy * noise_y + ox * noise_x
        v += tl.load(noise_rows, mask=row_ok, other=0.0).to(tl.float32)[:, None]
    if HAS_BIAS:
        v += tl.load(bias_ptr + oc, mask=o_ok, other=0.0).to(tl.float32)[None, :]
    v = tl.where(v > 0, v, v * SLOPE) * GAIN
    if CLAMP > 0:
        v = clip(v, CLAMP)
    return v


@triton.jit
def store_tile(y_ptr, v, size, o, sample, row_n, pixel, row_ok, oc, NHWC: tl.constexpr):
    """Write a tile to the pixels `pixel` of an output with `size` pixels and `o` channels per sample."""
    y_p = o if NHWC else 1
    y_c = 1 if NHWC else size
    y_n = size * o
    y_rows = y_ptr + sample.to(tl.int64) * y_n + (row_n * y_n + pixel * y_p)[:, None]
    tl.store(y_rows + (oc * y_c)[None, :], v.to(y_ptr.dtype.element_ty), mask=row_ok[:, None] & (oc < o)[None, :])


@triton.jit
def store_image_channel(
    image_ptr, rgb, bias_ptr, skip_ptr, f_ptr, sample, row_n, p, oy, ox, h, w, row_ok, c,
    RGB: tl.constexpr, HAS_BIAS: tl.constexpr, CLAMP: tl.constexpr, HAS_SKIP: tl.constexpr,
):  # fmt: skip
    """Write channel `c` of an image at pixels `p`, which are `(oy, ox)`: `rgb`, bias, clamp, and the image of the block below."""
    if HAS_BIAS:
        rgb += tl.load(bias_ptr + c).to(tl.float32)
    if CLAMP > 0:
        rgb = clip(rgb, CLAMP)
    if HAS_SKIP:
        rgb += upsampled_skip(skip_ptr, f_ptr, sample, row_n, oy, ox, h // 2, w // 2, row_ok, c, RGB)
    if image_ptr.dtype.element_ty == tl.uint8:
        rgb = tl.minimum(tl.maximum(rgb * 127.5 + 128.0, 0.0), 255.0)
    pixels = sample.to(tl.int64) * (h * w) + row_n * (h * w) + p
    tl.store(image_ptr + pixels * RGB + c, rgb.to(image_ptr.dtype.element_ty), mask=row_ok)


@triton.jit
def upsampled_skip(skip_ptr, f_ptr, sample, row_n, oy, ox, h, w, row_ok, c, RGB: tl.constexpr):
    """Channel `c` of the 2x upsampled skip image at pixels `(oy, ox)`: 4x4 FIR, padding 2 and 1, gain 4.

    The image has `h` by `w` pixels. Four of the filter's 16 taps meet a sample: `y[o] = sum_k 4 f[3 - k] u[o + k - 2]`,
    with k of the parity of o.
    """
    rgb = tl.full(oy.shape, 0.0, tl.float32)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            ky = oy % 2 + 2 * i
            kx = ox % 2 + 2 * j
            y = (oy + ky) // 2 - 1
            x = (ox + kx) // 2 - 1
            ok = row_ok & (y >= 0) & (y < h) & (x >= 0) & (x < w)
            tap = tl.load(f_ptr + (3 - ky) * 4 + (3 - kx)).to(tl.float32) * 4
            offsets = (sample.to(tl.int64) * (h * w) + row_n * (h * w) + y * w + x) * RGB + c
            rgb += tap * tl.load(skip_ptr + offsets, mask=ok, other=0.0)
    return rgb


@triton.jit
def folded_tap(
    w_tile, w_t, w_ok, f_ptr, first_y, first_x, WIDTH: tl.constexpr, TAPS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """Entry `(first_y, first_x)` of `4 (w * f)`, the full convolution of kernel and FIR, for a tile of channels."""
    b = tl.full((BLOCK_K, BLOCK_N), 0.0, tl.float32)
    for ky in tl.static_range(WIDTH):
        for kx in tl.static_range(WIDTH):
            fy = first_y - ky
            fx = first_x - kx
            meets = (fy >= 0) & (fy < TAPS) & (fx >= 0) & (fx < TAPS)
            tap = tl.load(f_ptr + fy * TAPS + fx, mask=meets, other=0.0).to(tl.float32) * 4
            # A column of integers, because the interpreter loses the type of a bool that it broadcasts over a tile.
            ok = w_ok & (tl.full((BLOCK_K, 1), 0, tl.int32) + meets.to(tl.int32) > 0)
            b += tap * tl.load(w_tile + (ky * WIDTH + kx) * w_t, mask=ok, other=0.0).to(tl.float32)
    return b


@triton.jit
def round_to_int8(v):
    """`v` in int8: clipped to 127 and rounded, halves to even.

    12582912 is 1.5 * 2^23. Float32 numbers of that size are whole, so adding it rounds.
    """
    v = clip(v, LARGEST_INT8)
    return ((v + 12582912.0) - 12582912.0).to(tl.int8)


@triton.jit
def round_to_fp8(v):
    """The float32 number nearest to `v` that E4M3 holds, clipped to 448. GPUs with FP8 have an instruction for it.

    E4M3 holds multiples of 2^-9 below 2^-6, and four significant bits above. Adding and then subtracting a number with
    units that coarse rounds, halves to even.
    """
    v = clip(v, LARGEST_FP8)
    exponent = ((v.to(tl.int32, bitcast=True) >> 23) & 255) - 127
    # 1.5 * 2^23 units of 2^(exponent - 3), made from the bits of that float32.
    unit = tl.maximum(exponent, -6) - 3
    coarse = (((unit + 23 + 127) << 23) | 0x400000).to(tl.float32, bitcast=True)
    return (v + coarse) - coarse
