"""Upfirdn2d in Triton: every output pixel gathers the taps that meet a sample, so no inserted zero is ever multiplied.

With `u[up * i] = x[i]` and zeros elsewhere, and `K` the filter as a correlation times the gain,

    y[o] = sum_k K[k] * u[o * down + k - pad]          (the same in y and x)

Two kernels share this formula. `quad_kernel` knows factors, padding and taps at compile time: for factors 1 and 2 the
input rows that a 2x2 block of outputs needs lie at fixed distances, so each input value is loaded once for all four, and
which tap meets it is decided while compiling (the polyphase form). `gather_kernel` works out the phase of every pixel at
run time and serves everything else. Tensors come with strides, so NCHW and NHWC are the same code.
"""

# Kernels are compiled by Triton, whose arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from stylert.plugins.shapes import MAX_OFFSET, Resampling

#: The quad kernel unrolls its window; beyond this many loads it is code that helps nobody.
MAX_UNROLLED_LOADS = 100


def upfirdn2d_into(y: Any, x: Any, f: Any, spec: Resampling) -> None:
    """Write Upfirdn2d of `x` into `y`.

    Args:
        y: `[N, C, H', W']`, any strides, the dtype of `x`; every element is written.
        x: `[N, C, H, W]`, float16, bfloat16 or float32, any strides; accumulated in float32.
        f: `[fh, fw]`, contiguous, float32.
        spec: factors, padding, flip and gain.

    Raises:
        ValueError: shapes, dtypes or sizes that the kernel cannot serve.
    """
    check_float(x, "upfirdn2d: x")
    if len(x.shape) != 4 or len(f.shape) != 2:
        raise ValueError(f"upfirdn2d takes x [N, C, H, W] and f [fh, fw], not {list(x.shape)} and {list(f.shape)}")
    if str(f.dtype) != "torch.float32" or not f.is_contiguous():
        raise ValueError("upfirdn2d: the filter must be contiguous float32")
    n, c, h, w = x.shape
    fh, fw = f.shape
    out_h, out_w = spec.output_size((h, w), (fh, fw))
    if tuple(y.shape) != (n, c, out_h, out_w) or y.dtype != x.dtype:
        raise ValueError(f"upfirdn2d: output is {y.dtype} {list(y.shape)}, not {x.dtype} {[n, c, out_h, out_w]}")
    for t in (x, y):
        if sum((size - 1) * stride for size, stride in zip(t.shape[1:], t.stride()[1:], strict=True)) > MAX_OFFSET:
            raise ValueError(f"upfirdn2d: a sample of {list(t.shape)} is too large for 32-bit offsets")
    if n * c == 0:
        return

    quad = fits_quad(spec, (fh, fw))
    block_p, block_c = choose_tile(quad, c, x.stride()[1] == 1 and c > 1, x.element_size())
    grid = (programs(n, c, out_h, out_w, quad, block_p, block_c),)
    strides = (*x.stride(), *y.stride())
    if quad:
        constants = quad_constants(spec, (fh, fw))
        quad_kernel[grid](x, f, c, h, w, out_h, out_w, *strides, y, **constants, BLOCK_P=block_p, BLOCK_C=block_c)
    else:
        constants = gather_constants(spec, (fh, fw))
        before = spec.padding[0], spec.padding[2]
        gather_kernel[grid](x, f, c, h, w, out_h, out_w, *strides, *before, y, **constants, BLOCK_P=block_p, BLOCK_C=block_c)


def fits_quad(spec: Resampling, taps: tuple[int, int]) -> bool:
    """Whether the compile-time form serves these attributes: factors 1 and 2 and a window of sensible size."""
    return max(*spec.up, *spec.down) <= 2 and _window(spec, taps, 0)[2] * _window(spec, taps, 1)[2] <= MAX_UNROLLED_LOADS


def choose_tile(quad: bool, c: int, channels_fast: bool, itemsize: int) -> tuple[int, int]:
    """Pixels (or quads of them) and channels of one program. Tiles follow memory: channels are the fast axis of NHWC.

    The quad kernel loads 16 bytes per thread in NHWC; in NCHW neighbours are not known to share a row, and load singly.
    """
    block_c = min(64, triton.next_power_of_2(c)) if channels_fast else 1
    if not quad:
        return max(1, 512 // block_c), block_c
    return (max(1, 2048 // itemsize // block_c) if channels_fast else 256), block_c


def programs(n: Any, c: Any, out_h: Any, out_w: Any, quad: bool, block_p: int, block_c: int) -> Any:
    """How many programs make an output of this shape; works on ints and on symbolic sizes alike."""
    pixels = ((out_h + 1) // 2) * ((out_w + 1) // 2) if quad else out_h * out_w
    return n * triton.cdiv(c, block_c) * triton.cdiv(pixels, block_p)


def gather_constants(spec: Resampling, taps: tuple[int, int]) -> dict[str, Any]:
    """The compile-time arguments of `gather_kernel`, less its tile."""
    return {
        "UP_Y": spec.up[0], "UP_X": spec.up[1], "DOWN_Y": spec.down[0], "DOWN_X": spec.down[1],
        "FH": taps[0], "FW": taps[1], "FLIP": spec.flip, "GAIN": spec.gain,
    }  # fmt: skip


def quad_constants(spec: Resampling, taps: tuple[int, int]) -> dict[str, Any]:
    """The compile-time arguments of `quad_kernel`, less its tile."""
    phase_y, shift_y, rows = _window(spec, taps, 0)
    phase_x, shift_x, cols = _window(spec, taps, 1)
    return {
        "UP_Y": spec.up[0], "UP_X": spec.up[1], "DOWN_Y": spec.down[0], "DOWN_X": spec.down[1],
        "PHASE_Y": phase_y, "PHASE_X": phase_x, "SHIFT_Y": shift_y, "SHIFT_X": shift_x, "ROWS": rows, "COLS": cols,
        "FH": taps[0], "FW": taps[1], "FLIP": spec.flip, "GAIN": spec.gain,
    }  # fmt: skip


def check_float(t: Any, name: str) -> None:
    """Refuse a dtype that the kernels do not compute in."""
    if str(t.dtype) not in ("torch.float16", "torch.bfloat16", "torch.float32"):
        raise ValueError(f"{name} must be float16, bfloat16 or float32, not {t.dtype}")


def _window(spec: Resampling, taps: tuple[int, int], axis: int) -> tuple[int, int, int]:
    """How a pair of outputs sees the input on one axis: first tap that meets a sample, samples before it, samples in all.

    Output `2q + r` and tap `k` meet position `e = r * down + k` of a window of `down + taps` positions. Sample `j` of the
    window sits at `e = phase + up * j`, and is input `q * 2 * down / up - shift + j`.
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
    """`BLOCK_P` quads of 2x2 outputs by `BLOCK_C` channels, everything static but the sizes.

    For output `(2 qy + r, 2 qx + s)`: `y = GAIN * sum_{j, l} K[PHASE + UP j - DOWN r, PHASE + UP l - DOWN s] x[j, l]`,
    where `x[j, l]` is the window that the four outputs share and K is zero outside its taps.
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
    at = y_ptr + n * y_n + (ch * y_c)[None, :] + (oy * y_h + ox * y_w)[:, None]
    ok = (q < quads)[:, None] & channel_ok
    below = (oy + 1 < out_h)[:, None]
    beside = (ox + 1 < out_w)[:, None]
    out = y_ptr.dtype.element_ty
    tl.store(at, (y00 * GAIN).to(out), mask=ok)
    tl.store(at + y_w, (y01 * GAIN).to(out), mask=ok & beside)
    tl.store(at + y_h, (y10 * GAIN).to(out), mask=ok & below)
    tl.store(at + y_h + y_w, (y11 * GAIN).to(out), mask=ok & below & beside)


@triton.jit
def add_tap(
    acc, v, f_ptr, KY: tl.constexpr, KX: tl.constexpr, FH: tl.constexpr, FW: tl.constexpr, FLIP: tl.constexpr
):  # fmt: skip
    """`acc + K[KY, KX] * v`, or `acc` where the filter has no such tap; decided while compiling."""
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
    """`BLOCK_P` outputs by `BLOCK_C` channels: per output, taps `k0, k0 + up, ...` with `k0 = -(o * down - pad) mod up`."""
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

    # The remainder of a negative number has the sign of C: a multiple of up lifts the position above zero first.
    at_y = oy * DOWN_Y - pad_y
    at_x = ox * DOWN_X - pad_x
    ky0 = (UP_Y - (at_y + (pad_y + UP_Y - 1) // UP_Y * UP_Y) % UP_Y) % UP_Y
    kx0 = (UP_X - (at_x + (pad_x + UP_X - 1) // UP_X * UP_X) % UP_X) % UP_X
    iy0 = (at_y + ky0) // UP_Y
    ix0 = (at_x + kx0) // UP_X

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

    at = y_ptr + n * y_n + (ch * y_c)[None, :] + (oy * y_h + ox * y_w)[:, None]
    tl.store(at, (acc * GAIN).to(y_ptr.dtype.element_ty), mask=(p < pixels)[:, None] & channel_ok)
