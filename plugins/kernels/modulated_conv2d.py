"""ModulatedConv2d in Triton: one synthesis layer as one implicit matrix product, everything else in its margins.

    y[n, p, o] = clamp(gain * lrelu(d[n, o] * sum_{t, i} w[t, o, i] * (s[n, i] * x[n, p + t, i]) + noise[n, p] + b[o]))

Rows of the product are output pixels, columns output channels, and it sums over taps and input channels. The style
multiplies the input tile on its way to the tensor cores; demodulation, noise, bias, leaky ReLU, gain and clamp are
applied to the accumulator before its only store. For 2x up the FIR is folded into four phase kernels (`polyphase.fold`):
each phase is this product over the input's pixels, stored straight to every second pixel of the output.

Activations are NHWC and weights `[phase, O, k, k, I]`, so both tiles are read along their contiguous channels, which is
also what every tensor-core generation takes. Flags let the kernel read NCHW activations and `[O, I, k, k]` weights too,
and fold the FIR into the weights on the fly: a TensorRT plugin is one kernel on the operands of an ONNX node, with nothing
prepared ahead (`nodes.py`).
"""

# Kernels are compiled by Triton, whose arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from stylert.plugins.kernels.bias_act import clip
from stylert.plugins.kernels.upfirdn2d import check_float
from stylert.plugins.shapes import MAX_OFFSET, Tail

#: How float32 tiles are multiplied: exactly, as one tf32 product, or as three that together are nearly float32. Half
#: precision has exact products anyway; "ieee" widens its tiles first, for where there are no tensor cores (the
#: interpreter cannot multiply bfloat16). Weights in 8 bits are multiplied in 8 bits whatever is said here.
PRECISIONS = ("ieee", "tf32", "tf32x3")


@dataclass(frozen=True)
class Tile:
    """Shape of one program's work: `m` pixels by `n` output channels, in steps of `k` input channels."""

    m: int
    n: int
    k: int
    num_warps: int = 4
    num_stages: int = 3


def choose_tile(pixels: int, o: int, i: int, itemsize: int) -> Tile:
    """A tile for a product of `pixels` rows (of the whole batch) by `o` columns, weights of `itemsize` bytes.

    Reasoned, not yet measured.

    Half precision takes 128x128 where both sides fill it. Float32 tiles are a quarter of that, because their operands
    are twice as wide and the three-product form keeps two copies. Few pixels (4 to 16 px layers) take low tiles, so that
    there are more programs to share the reading of the weights.
    """
    n = min(64 if itemsize == 4 else 128, max(16, triton.next_power_of_2(o)))
    k = min(32 if itemsize == 4 else 64, max(32 if itemsize == 1 else 16, triton.next_power_of_2(i)))
    m = min(64 if itemsize == 4 else 128, max(16, triton.next_power_of_2(pixels)))
    if pixels <= 1024:
        m, n = min(m, 64), min(n, 64)
    return Tile(m, n, k, num_warps=8 if m * n >= 128 * 128 else 4, num_stages=3)


def modulated_conv2d_into(
    y: Any,
    x: Any,
    weight: Any,
    style: Any | None,
    demod: Any | None = None,
    noise: Any | None = None,
    bias: Any | None = None,
    *,
    tail: Tail,
    tile: Tile | None = None,
    precision: str = "tf32x3",
) -> None:
    """Write one synthesis layer into `y`.

    Args:
        y: `[N, H * up, W * up, O]`, contiguous, the dtype of `x`; every element is written.
        x: `[N, H, W, I]`, contiguous, float16, bfloat16 or float32; accumulated in float32.
        weight: `[P, O, k, k, I]`, contiguous, the dtype of `x` or int8, k odd. P is 1, or 4 for 2x up (see `polyphase.fold`).
            For int8 the product is `sum w * round(clip(s * x, -127, 127))` in int32, halves to even: `style` must be divided by
            the activations' scale, and `demod` multiplied by it and the weights' (see `int8.layer_operands`).
        style: `[N, I]`, contiguous, or None where `x` is already modulated (which int8 weights do not allow).
        demod: `[N, O]`, contiguous, or None.
        noise: `[N, H * up, W * up]`, any strides (0 where it is broadcast), scaled, or None.
        bias: `[O]`, contiguous, or None.
        tail: slope, gain and clamp.
        tile: None chooses one.
        precision: see `PRECISIONS`.

    Raises:
        ValueError: operands that do not fit together or that the kernel cannot serve.
    """
    check_float(x, "modulated_conv2d: x")
    if len(x.shape) != 4 or len(weight.shape) != 5:
        raise ValueError(f"modulated_conv2d: x is [N, H, W, I] and weight [P, O, k, k, I], not {x.shape} and {weight.shape}")
    n, h, w, i = x.shape
    phases, o, k, k2, weight_i = weight.shape
    int8 = str(weight.dtype) == "torch.int8"
    if int8 and (style is None or demod is None):
        raise ValueError("modulated_conv2d: int8 weights need style and demod, which carry the scales")
    if phases not in (1, 4) or k != k2 or k % 2 == 0 or weight_i != i or (weight.dtype != x.dtype and not int8):
        raise ValueError(
            f"modulated_conv2d: weight {weight.dtype} {list(weight.shape)} does not serve x {x.dtype} {list(x.shape)}"
        )
    up = 2 if phases == 4 else 1
    wanted = {"y": (n, h * up, w * up, o), "style": (n, i), "demod": (n, o), "noise": (n, h * up, w * up), "bias": (o,)}
    given = {"y": y, "style": style, "demod": demod, "noise": noise, "bias": bias}
    for name, t in given.items():
        if t is None:
            continue
        check_float(t, f"modulated_conv2d: {name}")
        if tuple(t.shape) != wanted[name]:
            raise ValueError(f"modulated_conv2d: {name} is {list(t.shape)}, not {list(wanted[name])}")
    for name, t in {"x": x, "weight": weight, **given}.items():
        if t is not None and name != "noise" and not t.is_contiguous():
            raise ValueError(f"modulated_conv2d: {name} must be contiguous")
    if y.dtype != x.dtype:
        raise ValueError(f"modulated_conv2d: output is {y.dtype}, not {x.dtype}")
    if precision not in PRECISIONS:
        raise ValueError(f"modulated_conv2d: precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    sample = h * w * max(i, o * up * up)
    if sample > MAX_OFFSET or weight.numel() > MAX_OFFSET:
        raise ValueError(f"modulated_conv2d: a sample of {[h, w, i]} or the weight is too large for 32-bit offsets")
    if y.numel() == 0:
        return

    tile = tile or choose_tile(n * h * w, o, i, weight.element_size())
    if int8 and tile.k < 32:
        raise ValueError(f"modulated_conv2d: 8-bit products take at least 32 channels at a time, not {tile.k}")
    # Samples that fill tiles of their own share one style row; small ones share tiles, and gather it per pixel.
    per_sample = h * w >= tile.m or n == 1
    absent = x  # a pointer that is never read
    modulated_conv2d_kernel[(programs(n, h * w, o, phases, tile, per_sample),)](
        x, weight, *(absent if t is None else t for t in (style, demod, noise, bias, None)),
        n, h, w, i, o, h * w * i, *((0, 0, 0) if noise is None else noise.stride()), y,
        NHWC=True, OHWI=True, FOLD=0, TAPS=0, SHIFT=0,
        HAS_STYLE=style is not None, HAS_DEMOD=demod is not None, HAS_NOISE=noise is not None, HAS_BIAS=bias is not None,
        UP=up, KSIZE=k, SLOPE=tail.slope, GAIN=tail.gain, CLAMP=tail.clamp, PER_SAMPLE=per_sample,
        PRECISION="int8" if int8 else precision,
        BLOCK_M=tile.m, BLOCK_N=tile.n, BLOCK_K=tile.k, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip


def programs(n: Any, pixels: Any, o: int, phases: int, tile: Tile, per_sample: bool) -> Any:
    """How many programs make `n` samples of `pixels` input pixels; works on ints and on symbolic sizes alike."""
    blocks_m = n * triton.cdiv(pixels, tile.m) if per_sample else triton.cdiv(n * pixels, tile.m)
    return blocks_m * (phases * triton.cdiv(o, tile.n))


@triton.jit
def modulated_conv2d_kernel(
    x_ptr, w_ptr, style_ptr, demod_ptr, noise_ptr, bias_ptr, f_ptr, n, h, w, i, o, x_n, noise_n, noise_y, noise_x, y_ptr,
    HAS_STYLE: tl.constexpr, HAS_DEMOD: tl.constexpr, HAS_NOISE: tl.constexpr, HAS_BIAS: tl.constexpr,
    UP: tl.constexpr, KSIZE: tl.constexpr, SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr,
    NHWC: tl.constexpr, OHWI: tl.constexpr, FOLD: tl.constexpr, TAPS: tl.constexpr, SHIFT: tl.constexpr,
    PER_SAMPLE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`BLOCK_M` pixels (of one sample if `PER_SAMPLE`, else of the batch) by `BLOCK_N` channels of one phase.

    `KSIZE` is the width of the product's kernel. With `FOLD` above 0 that is a phase kernel, made here from a weight of
    width `FOLD` and a FIR of `TAPS`; the weight then has no phase axis.
    """
    RADIUS: tl.constexpr = KSIZE // 2
    PHASES: tl.constexpr = UP * UP
    # Channel blocks, then phases, vary fastest: programs that run together read the same pixels.
    blocks_n = (o + BLOCK_N - 1) // BLOCK_N
    pid = tl.program_id(0)
    oc = (pid % blocks_n) * BLOCK_N + tl.arange(0, BLOCK_N)
    phase = (pid // blocks_n) % PHASES
    block = pid // (blocks_n * PHASES)
    pixels = h * w
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
    py = p // w
    px = p % w
    o_ok = oc < o

    # One loop over taps and channel blocks, so that the loads of the next step run under the products of this one.
    ik = tl.arange(0, BLOCK_K)
    blocks_k = (i + BLOCK_K - 1) // BLOCK_K
    # Steps in memory from one pixel, channel or tap to the next.
    x_p = i if NHWC else 1
    x_c = 1 if NHWC else pixels
    w_t = i if OHWI else 1
    WIDTH: tl.constexpr = FOLD if FOLD > 0 else KSIZE
    w_c = 1 if OHWI else WIDTH * WIDTH
    x_rows = x_ptr + sample.to(tl.int64) * x_n + (row_n * x_n + p * x_p)[:, None] + (ik * x_c)[None, :]
    w_cols = w_ptr + (oc * (WIDTH * WIDTH * i))[None, :] + (ik * w_c)[:, None]
    if FOLD == 0:
        w_cols += phase * o * (WIDTH * WIDTH * i)
    acc = tl.full((BLOCK_M, BLOCK_N), 0, tl.int32 if PRECISION == "int8" else tl.float32)
    for step in range(KSIZE * KSIZE * blocks_k):
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
            a = quantize(a, s) if PRECISION == "int8" else modulate(a, s)
        if PRECISION == "int8":
            acc = tl.dot(a, b, acc, out_dtype=tl.int32)
        else:
            if PRECISION == "ieee":
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            acc = tl.dot(a, b, acc, input_precision=PRECISION)
    acc = acc.to(tl.float32)

    if HAS_DEMOD:
        if PER_SAMPLE:
            d = tl.load(demod_ptr + sample * o + oc, mask=o_ok, other=0.0)[None, :]
        else:
            d = tl.load(demod_ptr + (row_n * o)[:, None] + oc[None, :], mask=row_ok[:, None] & o_ok[None, :], other=0.0)
        acc *= d.to(tl.float32)
    oy = py * UP + phase // UP
    ox = px * UP + phase % UP
    if HAS_NOISE:
        noise_at = noise_ptr + sample.to(tl.int64) * noise_n + row_n * noise_n + oy * noise_y + ox * noise_x
        acc += tl.load(noise_at, mask=row_ok, other=0.0).to(tl.float32)[:, None]
    if HAS_BIAS:
        acc += tl.load(bias_ptr + oc, mask=o_ok, other=0.0).to(tl.float32)[None, :]
    acc = tl.where(acc > 0, acc, acc * SLOPE) * GAIN
    if CLAMP > 0:
        acc = clip(acc, CLAMP)
    y_p = o if NHWC else 1
    y_c = 1 if NHWC else pixels * PHASES
    y_n = pixels * PHASES * o
    y_rows = y_ptr + sample.to(tl.int64) * y_n + (row_n * y_n + (oy * (w * UP) + ox) * y_p)[:, None]
    tl.store(y_rows + (oc * y_c)[None, :], acc.to(y_ptr.dtype.element_ty), mask=row_ok[:, None] & o_ok[None, :])


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
def modulate(a, s):
    """`a * s` in the dtype of `a`; half precision multiplies as it is, the rest passes through float32."""
    if a.dtype == tl.float16:
        product = a * s.to(tl.float16)
    else:
        product = (a.to(tl.float32) * s.to(tl.float32)).to(a.dtype)
    return product
