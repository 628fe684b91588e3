"""bias_act in Triton: the pointwise tail of a layer in one pass over memory, and its gradient in another.

    y = clamp(gain * leaky_relu(x + b[c], slope));   dx = dy * gain * (y > 0 ? 1 : slope) * [|y| < clamp]

The gradient reads the result, which has the sign of its input: nothing but `y` has to be kept, and the next layer keeps that.
"""

# Kernels are compiled by Triton, whose arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from stylert.plugins.shapes import MAX_OFFSET, Epilogue
from stylert.plugins.triton.upfirdn2d import check_float

BLOCK = 1024


def bias_act_into(y: Any, x: Any, b: Any | None, tail: Epilogue, *, step: int) -> None:
    """Write `clamp(gain * act(x + b))` into `y`.

    Args:
        y, x: tensors of one size, dtype and memory layout, dense (no gaps), float16, bfloat16 or float32.
        b: `[C]` float32, contiguous, or None.
        tail: slope, gain and clamp.
        step: elements in memory between one channel and the next: 1 for NHWC, `H * W` for NCHW.

    Raises:
        ValueError: operands that do not match.
    """
    _check_alike(x, y)
    if step < 1:
        raise ValueError(f"bias_act: step must be at least 1, not {step}")
    if b is not None and (len(b.shape) != 1 or b.shape[0] != x.shape[1] or str(b.dtype) != "torch.float32"):
        raise ValueError(f"bias_act: bias must be float32 [{x.shape[1]}], not {b.dtype} {list(b.shape)}")
    count = x.numel()
    if count == 0:
        return
    bias_act_kernel[(triton.cdiv(count, BLOCK),)](
        x, x if b is None else b, count, step, x.shape[1], y,  # a pointer that is never read stands for an absent bias
        HAS_BIAS=b is not None, SLOPE=tail.slope, GAIN=tail.gain, CLAMP=tail.clamp, WIDE=count > MAX_OFFSET - BLOCK, BLOCK=BLOCK,
    )  # fmt: skip


def bias_act_gradient_into(dx: Any, y: Any, dy: Any, tail: Epilogue) -> None:
    """Write the gradient of `bias_act_into` into `dx`, from its result `y` and the gradient `dy` of that.

    All are tensors of one size, dtype and memory layout, as there. ValueError for those that do not match.
    """
    _check_alike(y, dx, dy)
    count = y.numel()
    if count == 0:
        return
    bias_act_gradient_kernel[(triton.cdiv(count, BLOCK),)](
        y, dy, count, dx, SLOPE=tail.slope, GAIN=tail.gain, CLAMP=tail.clamp, WIDE=count > MAX_OFFSET - BLOCK, BLOCK=BLOCK
    )


def _check_alike(x: Any, *others: Any) -> None:
    check_float(x, "bias_act: x")
    for t in others:
        if t.shape != x.shape or t.dtype != x.dtype or t.stride() != x.stride():
            raise ValueError(
                f"bias_act: {t.dtype} {list(t.shape)} must match {x.dtype} {list(x.shape)} of its other operands, in memory too"
            )


@triton.jit
def bias_act_kernel(
    x_ptr, b_ptr, count, step, c, y_ptr,
    HAS_BIAS: tl.constexpr, SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The formula above on `BLOCK` consecutive elements; `WIDE` counts them in 64 bits."""
    at, ok = block(count, WIDE, BLOCK)
    v = tl.load(x_ptr + at, mask=ok, other=0.0).to(tl.float32)
    if HAS_BIAS:
        v += tl.load(b_ptr + (at // step) % c, mask=ok, other=0.0)
    out = tl.where(v > 0, v, v * SLOPE) * GAIN
    if CLAMP > 0:
        out = clip(out, CLAMP)
    tl.store(y_ptr + at, out.to(y_ptr.dtype.element_ty), mask=ok)


@triton.jit
def bias_act_gradient_kernel(
    y_ptr, dy_ptr, count, dx_ptr,
    SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient above on `BLOCK` consecutive elements; what was clamped is the bound as the dtype of `y` holds it."""
    at, ok = block(count, WIDE, BLOCK)
    y = tl.load(y_ptr + at, mask=ok, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + at, mask=ok, other=0.0).to(tl.float32)
    dx = tl.where(y > 0, dy, dy * SLOPE) * GAIN
    if CLAMP > 0:
        bound = tl.full((BLOCK,), CLAMP, tl.float32).to(y_ptr.dtype.element_ty).to(tl.float32)
        dx = tl.where((y > -bound) & (y < bound), dx, 0.0)
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=ok)


@triton.jit
def block(count, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """The elements of this program, and which of them there are."""
    pid = tl.program_id(0)
    if WIDE:
        pid = pid.to(tl.int64)
    at = pid * BLOCK + tl.arange(0, BLOCK)
    return at, at < count


@triton.jit
def clip(v, BOUND: tl.constexpr):
    """`min(max(v, -BOUND), BOUND)`, with NaN kept as PyTorch keeps it."""
    return tl.where(v > BOUND, BOUND, tl.where(v < -BOUND, -BOUND, v))
