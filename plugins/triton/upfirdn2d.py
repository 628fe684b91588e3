"""Upfirdn2d in Triton: every output pixel gathers only the taps that meet a sample. No inserted zero is multiplied.

With `u[up * i] = x[i]` and zeros elsewhere, and with `K` the filter as a correlation kernel times the gain, on each
axis

    y[o] = sum_k K[k] * u[o * down + k - pad]

Two kernels compute this formula. `quad_kernel` knows factors, padding and taps at compile time. For factors 1 and 2,
the input rows of a 2x2 block of outputs lie at fixed distances. So each input value is loaded once for all four
outputs, and the compiler knows which tap meets it (the polyphase form). `gather_kernel` computes the phase of every
pixel at run time, and serves all other attributes. Tensors have strides, so NCHW and NHWC are the same code.
"""

# Kernels are compiled by Triton, whose arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from stylert.plugins.shapes import MAX_OFFSET, Resampling, upfirdn2d_shape
from stylert.plugins.triton.bias_act import check_kernel_dtype

#: The quad kernel unrolls its window of input values. A larger window than this takes the gather kernel.
MAX_UNROLLED_LOADS = 100


def upfirdn2d_into(y: Any, x: Any, f: Any, spec: Resampling) -> None:
    """Write Upfirdn2d of `x` into `y`. It is accumulated in float32.

    Args:
        y: Output, `[N, C, H', W']`, any strides, in the dtype of `x`.
        x: `[N, C, H, W]`, any strides, float16, bfloat16 or float32.
        f: `[fh, fw]`, contiguous, float32.
        spec: Factors, padding, flip and gain.

    Raises:
        ValueError: Shapes, dtypes or sizes that the kernel cannot serve.
    """
    check_kernel_dtype(x, "upfirdn2d: x")
    n, c, out_h, out_w = upfirdn2d_shape(x.shape, f.shape, spec)
    h, w = x.shape[2:]
    taps = (f.shape[0], f.shape[1])
    if str(f.dtype) != "torch.float32" or not f.is_contiguous():
        raise ValueError("upfirdn2d: the filter must be contiguous float32")
    if tuple(y.shape) != (n, c, out_h, out_w) or y.dtype != x.dtype:
        raise ValueError(f"upfirdn2d: output is {y.dtype} {list(y.shape)}, not {x.dtype} {[n, c, out_h, out_w]}")
    for t in (x, y):
        if sum((size - 1) * stride for size, stride in zip(t.shape[1:], t.stride()[1:], strict=True)) > MAX_OFFSET:
            raise ValueError(f"upfirdn2d: a sample of {list(t.shape)} is too large for 32-bit offsets")
    if n * c == 0:
        return

    quad = fits_quad(spec, taps)
    block_p, block_c = choose_block(quad, c, x.stride()[1] == 1 and c > 1, x.element_size())
    grid = (program_count(n, c, out_h, out_w, quad, block_p, block_c),)
    strides = (*x.stride(), *y.stride())
    if quad:
        constants = quad_constants(spec, taps)
        quad_kernel[grid](x, f, c, h, w, out_h, out_w, *strides, y, **constants, BLOCK_P=block_p, BLOCK_C=block_c)
    else:
        constants = gather_constants(spec, taps)
        pads = spec.padding[0], spec.padding[2]
        gather_kernel[grid](x, f, c, h, w, out_h, out_w, *strides, *pads, y, **constants, BLOCK_P=block_p, BLOCK_C=block_c)


def fits_quad(spec: Resampling, taps: tuple[int, int]) -> bool:
    """Whether `quad_kernel` serves these attributes: factors 1 and 2, and at most `MAX_UNROLLED_LOADS` loads."""
    if max(*spec.up, *spec.down) > 2:
        return False
    rows, columns = (_quad_window(spec, taps, axis)[2] for axis in (0, 1))
    return rows * columns <= MAX_UNROLLED_LOADS


def choose_block(quad: bool, c: int, channels_last: bool, itemsize: int) -> tuple[int, int]:
    """Pixels (or quads of pixels) and channels of one program.

    A block follows memory. In NHWC the channels are contiguous, and the quad kernel loads 16 bytes per thread. In NCHW
    two neighbours may lie in different rows, so each value is loaded alone.

    Args:
        quad: Whether `quad_kernel` runs.
        c: Channels.
        channels_last: Whether channels are contiguous in memory.
        itemsize: Bytes of one element.
    """
    block_c = min(64, triton.next_power_of_2(c)) if channels_last else 1
    if not quad:
        return max(1, 512 // block_c), block_c
    return (max(1, 2048 // itemsize // block_c) if channels_last else 256), block_c


def program_count(n: Any, c: Any, out_h: Any, out_w: Any, quad: bool, block_p: int, block_c: int) -> Any:
    """Number of programs for an output of this shape. Sizes may be ints or symbolic."""
    pixels = ((out_h + 1) // 2) * ((out_w + 1) // 2) if quad else out_h * out_w
    return n * triton.cdiv(c, block_c) * triton.cdiv(pixels, block_p)


def gather_constants(spec: Resampling, taps: tuple[int, int]) -> dict[str, Any]:
    """The compile-time arguments of `gather_kernel` without its block."""
    return {
        "UP_Y": spec.up[0], "UP_X": spec.up[1], "DOWN_Y": spec.down[0], "DOWN_X": spec.down[1],
        "FH": taps[0], "FW": taps[1], "FLIP": spec.flip, "GAIN": spec.gain,
    }  # fmt: skip


def quad_constants(spec: Resampling, taps: tuple[int, int]) -> dict[str, Any]:
    """The compile-time arguments of `quad_kernel` without its block."""
    phase_y, shift_y, rows = _quad_window(spec, taps, 0)
    phase_x, shift_x, columns = _quad_window(spec, taps, 1)
    window = {
        "PHASE_Y": phase_y, "PHASE_X": phase_x, "SHIFT_Y": shift_y, "SHIFT_X": shift_x, "ROWS": rows, "COLS": columns,
    }  # fmt: skip
    return gather_constants(spec, taps) | window


def _quad_window(spec: Resampling, taps: tuple[int, int], axis: int) -> tuple[int, int, int]:
    """The input samples that a pair of outputs needs on one axis.

    Output `2q + r` and tap `k` meet position `e = r * down + k` of a window of `down + taps` positions. Sample `j` of
    the window is at `e = phase + up * j`. It is input `q * 2 * down / up - shift + j`.

    Returns:
        `phase`, `shift`, and the number of samples.
    """
    up, down, before = spec.up[axis], spec.down[axis], spec.padding[2 * axis]
    phase = before % up
    return phase, before // up, -(-(down + taps[axis] - phase) // up)


@triton.jit
def quad_kernel(
    x_ptr, f_ptr, c, h, w, out_h, out_w, x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w, y_ptr,
    UP_Y: tl.constexpr, UP_X: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
    PHASE_Y: tl.constexpr, PHASE_X: tl.constexpr, SHIFT_Y: tl.constexpr, SHIFT_X: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, FH: tl.constexpr, FW: tl.constexpr,
    FLIP: tl.constexpr, GAIN: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """`BLOCK_P` quads of 2x2 outputs by `BLOCK_C` channels. Only the sizes are known at run time.

    Output `(2 qy + r, 2 qx + s)` is `GAIN * sum_{j, l} K[PHASE + UP j - DOWN r, PHASE + UP l - DOWN s] x[j, l]`.
    `x[j, l]` is the window that the four outputs share, and K is zero outside its taps.
    """
    quads_x = (out_w + 1) // 2
    quads = ((out_h + 1) // 2) * quads_x
    blocks_p = (quads + BLOCK_P - 1) // BLOCK_P
    blocks_c = (c + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    q = (pid % blocks_p) * BLOCK_P + tl.arange(0, BLOCK_P)
    rest = pid // blocks_p
    ch = (rest % blocks_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = (rest // blocks_c).to(tl.int64)
    qy = q // quads_x
    qx = q % quads_x
    channel_ok = (ch < c)[None, :]

    x_base = x_ptr + n * x_n + (ch * x_c)[None, :]
    first_y = qy * (2 * DOWN_Y // UP_Y) - SHIFT_Y
    first_x = qx * (2 * DOWN_X // UP_X) - SHIFT_X
    y00 = tl.full((BLOCK_P, BLOCK_C), 0.0, tl.float32)
    y01 = tl.full((BLOCK_P, BLOCK_C), 0.0, tl.float32)
    y10 = tl.full((BLOCK_P, BLOCK_C), 0.0, tl.float32)
    y11 = tl.full((BLOCK_P, BLOCK_C), 0.0, tl.float32)
    for j in tl.static_range(ROWS):
        for l in tl.static_range(COLS):
            iy = first_y + j
            ix = first_x + l
            inside = (iy >= 0) & (iy < h) & (ix >= 0) & (ix < w) & (q < quads)
            v = tl.load(x_base + (iy * x_h + ix * x_w)[:, None], mask=inside[:, None] & channel_ok, other=0.0)
            v = v.to(tl.float32)
            y00 = add_tap(y00, v, f_ptr, PHASE_Y + UP_Y * j, PHASE_X + UP_X * l, FH, FW, FLIP)
            y01 = add_tap(y01, v, f_ptr, PHASE_Y + UP_Y * j, PHASE_X + UP_X * l - DOWN_X, FH, FW, FLIP)
            y10 = add_tap(y10, v, f_ptr, PHASE_Y + UP_Y * j - DOWN_Y, PHASE_X + UP_X * l, FH, FW, FLIP)
            y11 = add_tap(y11, v, f_ptr, PHASE_Y + UP_Y * j - DOWN_Y, PHASE_X + UP_X * l - DOWN_X, FH, FW, FLIP)

    oy = 2 * qy
    ox = 2 * qx
    y_quad = y_ptr + n * y_n + (ch * y_c)[None, :] + (oy * y_h + ox * y_w)[:, None]
    ok = (q < quads)[:, None] & channel_ok
    below = (oy + 1 < out_h)[:, None]
    beside = (ox + 1 < out_w)[:, None]
    out = y_ptr.dtype.element_ty
    tl.store(y_quad, (y00 * GAIN).to(out), mask=ok)
    tl.store(y_quad + y_w, (y01 * GAIN).to(out), mask=ok & beside)
    tl.store(y_quad + y_h, (y10 * GAIN).to(out), mask=ok & below)
    tl.store(y_quad + y_h + y_w, (y11 * GAIN).to(out), mask=ok & below & beside)


@triton.jit
def add_tap(
    acc, v, f_ptr, KY: tl.constexpr, KX: tl.constexpr, FH: tl.constexpr, FW: tl.constexpr, FLIP: tl.constexpr
):  # fmt: skip
    """`acc + K[KY, KX] * v`, or `acc` if the filter has no such tap. The compiler decides."""
    if (KY >= 0) & (KY < FH) & (KX >= 0) & (KX < FW):
        if FLIP:
            tap = tl.load(f_ptr + KY * FW + KX)
        else:
            tap = tl.load(f_ptr + (FH - 1 - KY) * FW + (FW - 1 - KX))
        acc += tap * v
    return acc


@triton.jit
def gather_kernel(
    x_ptr, f_ptr, c, h, w, out_h, out_w, x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w, pad_y, pad_x, y_ptr,
    UP_Y: tl.constexpr, UP_X: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
    FH: tl.constexpr, FW: tl.constexpr, FLIP: tl.constexpr, GAIN: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """`BLOCK_P` outputs by `BLOCK_C` channels.

    Output `o` needs the taps `k0, k0 + up, ...` with `k0 = -(o * down - pad) mod up`.
    """
    pixels = out_h * out_w
    blocks_p = (pixels + BLOCK_P - 1) // BLOCK_P
    blocks_c = (c + BLOCK_C - 1) // BLOCK_C
    pid = tl.program_id(0)
    p = (pid % blocks_p) * BLOCK_P + tl.arange(0, BLOCK_P)
    rest = pid // blocks_p
    ch = (rest % blocks_c) * BLOCK_C + tl.arange(0, BLOCK_C)
    n = (rest // blocks_c).to(tl.int64)
    oy = p // out_w
    ox = p % out_w
    channel_ok = (ch < c)[None, :]

    # In Triton, as in C, the remainder of a negative number is negative. So a multiple of up makes the position
    # positive first.
    position_y = oy * DOWN_Y - pad_y
    position_x = ox * DOWN_X - pad_x
    ky0 = (UP_Y - (position_y + (pad_y + UP_Y - 1) // UP_Y * UP_Y) % UP_Y) % UP_Y
    kx0 = (UP_X - (position_x + (pad_x + UP_X - 1) // UP_X * UP_X) % UP_X) % UP_X
    iy0 = (position_y + ky0) // UP_Y
    ix0 = (position_x + kx0) // UP_X

    x_base = x_ptr + n * x_n + (ch * x_c)[None, :]
    acc = tl.full((BLOCK_P, BLOCK_C), 0.0, tl.float32)
    for j in range((FH + UP_Y - 1) // UP_Y):
        for l in range((FW + UP_X - 1) // UP_X):
            ky = ky0 + UP_Y * j
            kx = kx0 + UP_X * l
            iy = iy0 + j
            ix = ix0 + l
            ok = (p < pixels) & (ky < FH) & (kx < FW) & (iy >= 0) & (iy < h) & (ix >= 0) & (ix < w)
            if FLIP:
                tap = tl.load(f_ptr + ky * FW + kx, mask=ok, other=0.0)
            else:
                tap = tl.load(f_ptr + (FH - 1 - ky) * FW + (FW - 1 - kx), mask=ok, other=0.0)
            v = tl.load(x_base + (iy * x_h + ix * x_w)[:, None], mask=ok[:, None] & channel_ok, other=0.0)
            acc += tap[:, None] * v.to(tl.float32)

    y_pixels = y_ptr + n * y_n + (ch * y_c)[None, :] + (oy * y_h + ox * y_w)[:, None]
    tl.store(y_pixels, (acc * GAIN).to(y_ptr.dtype.element_ty), mask=(p < pixels)[:, None] & channel_ok)
