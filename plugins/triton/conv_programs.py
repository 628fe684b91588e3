"""The Triton programs of ModulatedConv2d; `modulated_conv2d.py` says what they compute and launches them.

Three kernels are made of the same parts: which pixels and channels are mine (`place`, `pixels_of`), their `product`, and the
layer's tail (`finish`).

- `modulated_conv2d_kernel`: all of it, one tile of the output per program. Also the TensorRT plugin.
- `rgb_kernel`: a program has every output channel of its pixels, so it computes torgb from its registers as well, and adds
  the upsampled image of the block below.
- `split_kernel` and `sum_kernel`: few pixels make few tiles, so several programs share one, each a stretch of the sum; what
  they leave in a workspace is added in a fixed order.
"""

# Kernels are compiled by Triton, whose arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from stylert.plugins.triton.bias_act import clip


@triton.jit
def modulated_conv2d_kernel(
    x_ptr, w_ptr, style_ptr, demod_ptr, noise_ptr, bias_ptr, f_ptr, n, h, w, i, o, x_n, noise_n, noise_y, noise_x, y_ptr,
    HAS_STYLE: tl.constexpr, HAS_DEMOD: tl.constexpr, HAS_NOISE: tl.constexpr, HAS_BIAS: tl.constexpr,
    UP: tl.constexpr, KSIZE: tl.constexpr, SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr,
    NHWC: tl.constexpr, OHWI: tl.constexpr, FOLD: tl.constexpr, TAPS: tl.constexpr, SHIFT: tl.constexpr,
    PER_SAMPLE: tl.constexpr, PRECISION: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`BLOCK_M` pixels (of one sample if `PER_SAMPLE`, else of the batch) by `BLOCK_N` channels of one phase.

    `KSIZE` is the width of the product's kernel. With `FOLD` above 0 that is a phase kernel, made here from a weight of
    width `FOLD` and a FIR of `TAPS`; the weight then has no phase axis.
    """
    block, phase, oc = place(n, h * w, o, UP * UP, PER_SAMPLE, GROUP, BLOCK_M, BLOCK_N)
    sample, row_n, p, row_ok = pixels_of(block, n, h * w, PER_SAMPLE, BLOCK_M)
    steps = KSIZE * KSIZE * ((i + BLOCK_K - 1) // BLOCK_K)
    acc = product(
        x_ptr, w_ptr, style_ptr, f_ptr, h, w, i, o, x_n, sample, row_n, p, row_ok, oc, phase, 0, steps,
        HAS_STYLE, UP, KSIZE, NHWC, OHWI, FOLD, TAPS, SHIFT, PER_SAMPLE, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    oy = (p // w) * UP + phase // UP
    ox = (p % w) * UP + phase % UP
    v = finish(
        acc, demod_ptr, noise_ptr, bias_ptr, o, noise_n, noise_y, noise_x, sample, row_n, oy, ox, row_ok, oc,
        HAS_DEMOD, HAS_NOISE, HAS_BIAS, SLOPE, GAIN, CLAMP, PER_SAMPLE,
    )  # fmt: skip
    store(y_ptr, v, h * w * (UP * UP), o, sample, row_n, oy * (w * UP) + ox, row_ok, oc, NHWC)


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
    """`BLOCK_M` pixels with all their `o <= BLOCK_N` channels, and the `RGB` channels of the image that torgb makes of them.

        image[n, p, c] = upsampled skip[n, p, c] + clamp(sum_o rgb_w[c, o] * rgb_style[n, o] * y[n, p, o] + rgb_bias[c])

    Without `HAS_Y` the activations are not written at all, as behind the last layer.
    """
    block = tl.program_id(0)
    oc = tl.arange(0, BLOCK_N)
    sample, row_n, p, row_ok = pixels_of(block, n, h * w, PER_SAMPLE, BLOCK_M)
    steps = KSIZE * KSIZE * ((i + BLOCK_K - 1) // BLOCK_K)
    acc = product(
        x_ptr, w_ptr, style_ptr, x_ptr, h, w, i, o, x_n, sample, row_n, p, row_ok, oc, 0, 0, steps,
        HAS_STYLE, 1, KSIZE, True, True, 0, 0, 0, PER_SAMPLE, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    oy = p // w
    ox = p % w
    v = finish(
        acc, demod_ptr, noise_ptr, bias_ptr, o, noise_n, noise_y, noise_x, sample, row_n, oy, ox, row_ok, oc,
        HAS_DEMOD, HAS_NOISE, HAS_BIAS, SLOPE, GAIN, CLAMP, PER_SAMPLE,
    )  # fmt: skip
    if HAS_Y:
        store(y_ptr, v, h * w, o, sample, row_n, p, row_ok, oc, True)

    o_ok = oc < o
    if PER_SAMPLE:
        s = tl.load(rgb_style_ptr + sample * o + oc, mask=o_ok, other=0.0).to(tl.float32)[None, :]
    else:
        at = rgb_style_ptr + (row_n * o)[:, None] + oc[None, :]
        s = tl.load(at, mask=row_ok[:, None] & o_ok[None, :], other=0.0).to(tl.float32)
    v = v * s
    image_rows = image_ptr + (sample.to(tl.int64) * (h * w) + row_n * (h * w) + p) * RGB
    for c in tl.static_range(RGB):
        to_rgb = tl.load(rgb_w_ptr + c * o + oc, mask=o_ok, other=0.0).to(tl.float32)
        rgb = tl.sum(v * to_rgb[None, :], axis=1)
        if RGB_BIAS:
            rgb += tl.load(rgb_bias_ptr + c).to(tl.float32)
        if RGB_CLAMP > 0:
            rgb = clip(rgb, RGB_CLAMP)
        if HAS_SKIP:
            rgb += upsampled(skip_ptr, f_ptr, sample, row_n, oy, ox, h // 2, w // 2, row_ok, c, RGB)
        if image_ptr.dtype.element_ty == tl.uint8:
            rgb = tl.minimum(tl.maximum(rgb * 127.5 + 128.0, 0.0), 255.0)
        tl.store(image_rows + c, rgb.to(image_ptr.dtype.element_ty), mask=row_ok)


@triton.jit
def split_kernel(
    x_ptr, w_ptr, style_ptr, n, h, w, i, o, x_n, work_ptr,
    HAS_STYLE: tl.constexpr, UP: tl.constexpr, KSIZE: tl.constexpr, PER_SAMPLE: tl.constexpr, PRECISION: tl.constexpr,
    SPLITS: tl.constexpr, GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One of `SPLITS` stretches of the sum for a tile, into `work[split, phase, sample * pixel, channel]`."""
    pixels = h * w
    block, phase, oc = place(n, pixels, o, UP * UP, PER_SAMPLE, GROUP, BLOCK_M, BLOCK_N)
    sample, row_n, p, row_ok = pixels_of(block, n, pixels, PER_SAMPLE, BLOCK_M)
    split = tl.program_id(1)
    steps = KSIZE * KSIZE * ((i + BLOCK_K - 1) // BLOCK_K)
    acc = product(
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
    """Adds the stretches of `split_kernel` in their order, then the layer's tail."""
    pixels = h * w
    block, phase, oc = place(n, pixels, o, UP * UP, False, 1, BLOCK_M, BLOCK_N)
    sample, row_n, p, row_ok = pixels_of(block, n, pixels, False, BLOCK_M)
    ok = row_ok[:, None] & (oc < o)[None, :]
    rows = work_ptr + (phase.to(tl.int64) * (n * pixels) + row_n * pixels + p)[:, None] * o + oc[None, :]
    step = tl.full((), UP * UP, tl.int64) * n * pixels * o
    acc = tl.load(rows, mask=ok, other=0)
    for split in range(1, SPLITS):
        acc += tl.load(rows + split * step, mask=ok, other=0)
    oy = (p // w) * UP + phase // UP
    ox = (p % w) * UP + phase % UP
    v = finish(
        acc, demod_ptr, noise_ptr, bias_ptr, o, noise_n, noise_y, noise_x, sample, row_n, oy, ox, row_ok, oc,
        HAS_DEMOD, HAS_NOISE, HAS_BIAS, SLOPE, GAIN, CLAMP, False,
    )  # fmt: skip
    store(y_ptr, v, pixels * (UP * UP), o, sample, row_n, oy * (w * UP) + ox, row_ok, oc, True)


# --- their parts -----------------------------------------------------------------------------------------------------


@triton.jit
def place(
    n, pixels, o, PHASES: tl.constexpr, PER_SAMPLE: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """This program's block of pixels, phase and channels.

    `GROUP` blocks of pixels go through all channels and phases together, pixels fastest: programs that run side by side
    read the same weights `GROUP` times and the same pixels as often as there are columns.
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
    """The sample that a block lies in (or 0), how many samples further each of its rows is, their pixels, which are real."""
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
def product(
    x_ptr, w_ptr, style_ptr, f_ptr, h, w, i, o, x_n, sample, row_n, p, row_ok, oc, phase, first, last,
    HAS_STYLE: tl.constexpr, UP: tl.constexpr, KSIZE: tl.constexpr,
    NHWC: tl.constexpr, OHWI: tl.constexpr, FOLD: tl.constexpr, TAPS: tl.constexpr, SHIFT: tl.constexpr,
    PER_SAMPLE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Steps `first` to `last` of the sum over taps and blocks of input channels: float32, or int32 of 8-bit integers."""
    RADIUS: tl.constexpr = KSIZE // 2
    py = p // w
    px = p % w
    o_ok = oc < o
    # One loop over taps and channel blocks, so that the loads of the next step run under the products of this one.
    ik = tl.arange(0, BLOCK_K)
    blocks_k = (i + BLOCK_K - 1) // BLOCK_K
    # Steps in memory from one pixel, channel or tap to the next.
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
            if PRECISION == "int8":
                a = quantize(a, s)
            elif PRECISION == "fp8":
                a = clip(a.to(tl.float32) * s.to(tl.float32), 448.0).to(tl.float8e4nv)
            elif PRECISION == "fp8_ieee":
                a = rounded_to_fp8(a.to(tl.float32) * s.to(tl.float32))
            else:
                a = modulate(a, s)
        if PRECISION == "int8":
            acc = tl.dot(a, b, acc, out_dtype=tl.int32)
        elif PRECISION == "fp8":
            acc = tl.dot(a, b, acc)
        elif PRECISION == "ieee" or PRECISION == "fp8_ieee":
            acc = tl.dot(a.to(tl.float32), b.to(tl.float32), acc, input_precision="ieee")
        else:
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def finish(
    acc, demod_ptr, noise_ptr, bias_ptr, o, noise_n, noise_y, noise_x, sample, row_n, oy, ox, row_ok, oc,
    HAS_DEMOD: tl.constexpr, HAS_NOISE: tl.constexpr, HAS_BIAS: tl.constexpr,
    SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, PER_SAMPLE: tl.constexpr,
):  # fmt: skip
    """The layer's tail on a tile of sums: demodulation, noise, bias, leaky ReLU, gain, clamp."""
    v = acc.to(tl.float32)
    o_ok = oc < o
    if HAS_DEMOD:
        if PER_SAMPLE:
            d = tl.load(demod_ptr + sample * o + oc, mask=o_ok, other=0.0)[None, :]
        else:
            d = tl.load(demod_ptr + (row_n * o)[:, None] + oc[None, :], mask=row_ok[:, None] & o_ok[None, :], other=0.0)
        v *= d.to(tl.float32)
    if HAS_NOISE:
        noise_at = noise_ptr + sample.to(tl.int64) * noise_n + row_n * noise_n + oy * noise_y + ox * noise_x
        v += tl.load(noise_at, mask=row_ok, other=0.0).to(tl.float32)[:, None]
    if HAS_BIAS:
        v += tl.load(bias_ptr + oc, mask=o_ok, other=0.0).to(tl.float32)[None, :]
    v = tl.where(v > 0, v, v * SLOPE) * GAIN
    if CLAMP > 0:
        v = clip(v, CLAMP)
    return v


@triton.jit
def store(y_ptr, v, size, o, sample, row_n, at, row_ok, oc, NHWC: tl.constexpr):
    """A tile to pixels `at` of an output with `size` pixels and `o` channels per sample."""
    y_p = o if NHWC else 1
    y_c = 1 if NHWC else size
    y_n = size * o
    y_rows = y_ptr + sample.to(tl.int64) * y_n + (row_n * y_n + at * y_p)[:, None]
    tl.store(y_rows + (oc * y_c)[None, :], v.to(y_ptr.dtype.element_ty), mask=row_ok[:, None] & (oc < o)[None, :])


@triton.jit
def upsampled(skip_ptr, f_ptr, sample, row_n, oy, ox, h, w, row_ok, c, RGB: tl.constexpr):
    """Channel `c` of a `h` by `w` image at pixels `(oy, ox)` of twice its size: 4x4 FIR, padding 2 and 1, gain 4.

    Of the filter's 16 taps four meet a sample: `y[o] = sum_k 4 f[3 - k] u[o + k - 2]` with k of the parity of o.
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
            at = (sample.to(tl.int64) * (h * w) + row_n * (h * w) + y * w + x) * RGB + c
            rgb += tap * tl.load(skip_ptr + at, mask=ok, other=0.0)
    return rgb


@triton.jit
def folded_tap(
    w_tile, w_t, w_ok, f_ptr, first_y, first_x, WIDTH: tl.constexpr, TAPS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    """Entry `(first_y, first_x)` of `4 (w * f)`, the full convolution of the kernel and the FIR, for a tile of channels."""
    b = tl.full((BLOCK_K, BLOCK_N), 0.0, tl.float32)
    for ky in tl.static_range(WIDTH):
        for kx in tl.static_range(WIDTH):
            fy = first_y - ky
            fx = first_x - kx
            meets = (fy >= 0) & (fy < TAPS) & (fx >= 0) & (fx < TAPS)
            tap = tl.load(f_ptr + fy * TAPS + fx, mask=meets, other=0.0).to(tl.float32) * 4
            # As a column, because the interpreter loses the type of a condition that it spreads over a tile.
            ok = w_ok & (tl.full((BLOCK_K, 1), 0, tl.int32) + meets.to(tl.int32) > 0)
            b += tap * tl.load(w_tile + (ky * WIDTH + kx) * w_t, mask=ok, other=0.0).to(tl.float32)
    return b


@triton.jit
def quantize(a, s):
    """`a * s` to int8, clipped to 127 and rounded, halves to even: so float32 rounds when its units are ones."""
    v = clip(a.to(tl.float32) * s.to(tl.float32), 127.0)
    return ((v + 12582912.0) - 12582912.0).to(tl.int8)


@triton.jit
def rounded_to_fp8(v):
    """The float32 next to `v` that E4M3 holds, clipped to 448: what a conversion gives where the hardware has one.

    Multiples of 2^-9 below 2^-6, four significant bits above: adding and subtracting a number whose units are that coarse
    rounds, halves to even.
    """
    v = clip(v, 448.0)
    exponent = ((v.to(tl.int32, bitcast=True) >> 23) & 255) - 127
    # 1.5 * 2^23 units of 2^(exponent - 3): the float32 with that exponent, made from its bits.
    unit = tl.maximum(exponent, -6) - 3
    magic = (((unit + 23 + 127) << 23) | 0x400000).to(tl.float32, bitcast=True)
    return (v + magic) - magic


@triton.jit
def modulate(a, s):
    """`a * s` in the dtype of `a`; half precision multiplies as it is, the rest passes through float32."""
    if a.dtype == tl.float16:
        product = a * s.to(tl.float16)
    else:
        product = (a.to(tl.float32) * s.to(tl.float32)).to(a.dtype)
    return product
