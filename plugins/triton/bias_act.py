"""bias_act in Triton: the result in one pass over memory, and its gradient in another.

    y  = clamp(gain * leaky_relu(x + b[c], slope))
    dx = dy * gain * (y > 0 ? 1 : slope) * [|y| < clamp]

The gradient needs `y` alone, because `y` has the sign of its input. The next layer keeps `y` anyway.
"""

# Kernels are compiled by Triton, whose arguments have no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from stylert.plugins.constants import KERNEL_DTYPES
from stylert.plugins.shapes import MAX_OFFSET, Epilogue, check_bias_act

#: Elements per program.
BLOCK = 1024


def bias_act_into(y: Any, x: Any, b: Any | None, epilogue: Epilogue, *, channel_stride: int) -> None:
    """Write `clamp(gain * act(x + b))` into `y`.

    Args:
        y: Output. It has the size, dtype and memory layout of `x`.
        x: `[N, C, ...]`, float16, bfloat16 or float32, dense (no gaps in memory).
        b: `[C]` float32, contiguous, or None.
        epilogue: Slope, gain and clamp.
        channel_stride: Elements in memory between two channels: 1 for NHWC, `H * W` for NCHW.

    Raises:
        ValueError: Operands that do not match.
    """
    _check_same_layout(x, y)
    if channel_stride < 1:
        raise ValueError(f"bias_act: channel_stride must be at least 1, not {channel_stride}")
    if b is not None:
        check_bias_act(x.shape, b.shape)
        if str(b.dtype) != "torch.float32":
            raise ValueError(f"bias_act: bias must be float32, not {b.dtype}")
    count = x.numel()
    if count == 0:
        return
    bias_or_unused = x if b is None else b  # The kernel does not read the pointer of an absent bias.
    bias_act_kernel[(triton.cdiv(count, BLOCK),)](
        x, bias_or_unused, count, channel_stride, x.shape[1], y,
        HAS_BIAS=b is not None, SLOPE=epilogue.slope, GAIN=epilogue.gain, CLAMP=epilogue.clamp,
        USE_INT64=count > MAX_OFFSET - BLOCK, BLOCK=BLOCK,
    )  # fmt: skip


def bias_act_gradient_into(dx: Any, y: Any, dy: Any, epilogue: Epilogue) -> None:
    """Write the gradient of `bias_act_into` into `dx`.

    Args:
        dx: Output, the gradient of the input.
        y: Result of `bias_act_into`.
        dy: Gradient of the result.
        epilogue: Slope, gain and clamp.

    Raises:
        ValueError: Tensors that differ in size, dtype or memory layout.
    """
    _check_same_layout(y, dx, dy)
    count = y.numel()
    if count == 0:
        return
    bias_act_gradient_kernel[(triton.cdiv(count, BLOCK),)](
        y, dy, count, dx, SLOPE=epilogue.slope, GAIN=epilogue.gain, CLAMP=epilogue.clamp,
        USE_INT64=count > MAX_OFFSET - BLOCK, BLOCK=BLOCK,
    )  # fmt: skip


def check_kernel_dtype(t: Any, name: str) -> None:
    """Refuse a dtype that the kernels do not take. `name` is the tensor's name in the message."""
    if str(t.dtype).removeprefix("torch.") not in KERNEL_DTYPES:
        raise ValueError(f"{name} must be float16, bfloat16 or float32, not {t.dtype}")


def _check_same_layout(x: Any, *others: Any) -> None:
    check_kernel_dtype(x, "bias_act: x")
    for t in others:
        if t.shape != x.shape or t.dtype != x.dtype or t.stride() != x.stride():
            raise ValueError(
                f"bias_act: {t.dtype} {list(t.shape)} must have the shape, dtype and strides of {x.dtype} {list(x.shape)}"
            )


@triton.jit
def bias_act_kernel(
    x_ptr, b_ptr, count, channel_stride, c, y_ptr,
    HAS_BIAS: tl.constexpr, SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, USE_INT64: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """`y` of the module's formula for `BLOCK` consecutive elements. `USE_INT64` counts the elements in 64 bits."""
    offsets, mask = element_block(count, USE_INT64, BLOCK)
    v = tl.load(x_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        v += tl.load(b_ptr + (offsets // channel_stride) % c, mask=mask, other=0.0)
    out = tl.where(v > 0, v, v * SLOPE) * GAIN
    if CLAMP > 0:
        out = clip(out, CLAMP)
    tl.store(y_ptr + offsets, out.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def bias_act_gradient_kernel(
    y_ptr, dy_ptr, count, dx_ptr,
    SLOPE: tl.constexpr, GAIN: tl.constexpr, CLAMP: tl.constexpr, USE_INT64: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`dx` of the module's formula for `BLOCK` consecutive elements.

    A clamped `y` is the bound rounded to the dtype of `y`. So the comparison uses the rounded bound.
    """
    offsets, mask = element_block(count, USE_INT64, BLOCK)
    y = tl.load(y_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    dx = tl.where(y > 0, dy, dy * SLOPE) * GAIN
    if CLAMP > 0:
        bound = tl.full((BLOCK,), CLAMP, tl.float32).to(y_ptr.dtype.element_ty).to(tl.float32)
        dx = tl.where((y > -bound) & (y < bound), dx, 0.0)
    tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=mask)


@triton.jit
def element_block(count, USE_INT64: tl.constexpr, BLOCK: tl.constexpr):
    """Offsets of this program's elements, and which of them exist."""
    pid = tl.program_id(0)
    if USE_INT64:
        pid = pid.to(tl.int64)
    offsets = pid * BLOCK + tl.arange(0, BLOCK)
    return offsets, offsets < count


@triton.jit
def clip(v, BOUND: tl.constexpr):
    """`min(max(v, -BOUND), BOUND)`. A NaN stays a NaN, as in PyTorch."""
    return tl.where(v > BOUND, BOUND, tl.where(v < -BOUND, -BOUND, v))
