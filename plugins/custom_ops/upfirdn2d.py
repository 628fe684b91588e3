"""`stylert::upfirdn2d`: the Upfirdn2d kernels as a PyTorch custom op.

The transpose of an upfirdn is an upfirdn. So the gradient is this op again, to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stylert.plugins.custom_ops.define import define_custom_op, has_kernels, memory_format_of
from stylert.plugins.reference import upfirdn2d as reference
from stylert.plugins.shapes import Resampling, upfirdn2d_shape


class Upfirdn2dArguments(NamedTuple):
    """Arguments of the op, in the order of its schema."""

    x: Tensor
    f: Tensor
    up: Sequence[int]
    down: Sequence[int]
    padding: Sequence[int]
    flip: bool
    gain: float

    @property
    def spec(self) -> Resampling:
        return Resampling.of(self.up, self.down, self.padding, self.flip, self.gain)


def apply_resampling(x: Tensor, f: Tensor, spec: Resampling) -> Tensor:
    """Upfirdn2d of x `[N, C, H, W]` with f `[fh, fw]`, through the op."""
    return torch.ops.stylert.upfirdn2d(x, f, spec.up, spec.down, spec.padding, spec.flip, spec.gain)


def checked_shape(x: Tensor, f: Tensor, spec: Resampling) -> tuple[int, int, int, int]:
    """Shape of the result.

    Raises:
        ValueError: Shapes that leave no output, or an `x` that is not a float tensor.
    """
    shape = upfirdn2d_shape(x.shape, f.shape, spec)
    if not x.is_floating_point():
        raise ValueError(f"upfirdn2d takes a float tensor, not {x.dtype}")
    return shape


def _forward(arguments: Upfirdn2dArguments) -> Tensor:
    x, f, spec = arguments.x, arguments.f, arguments.spec
    shape, layout = checked_shape(x, f, spec), memory_format_of(x)
    if not has_kernels(x):
        return reference.apply_resampling(x, f, spec).contiguous(memory_format=layout)
    from stylert.plugins.triton.upfirdn2d import upfirdn2d_into

    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    with torch.cuda.device_of(x):
        upfirdn2d_into(y, x, f.float().contiguous(), spec)
    return y


def _fake(arguments: Upfirdn2dArguments) -> Tensor:
    x = arguments.x
    shape = checked_shape(x, arguments.f, arguments.spec)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format_of(x))


def _setup_context(ctx: Any, arguments: Upfirdn2dArguments, y: Tensor) -> None:
    x, f = arguments.x, arguments.f
    ctx.save_for_backward(f)
    ctx.adjoint = arguments.spec.adjoint((x.shape[2], x.shape[3]), (f.shape[0], f.shape[1]))


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    dx = apply_resampling(dy, f, ctx.adjoint) if ctx.needs_input_grad[0] else None
    return dx, None, None, None, None, None, None


define_custom_op(Upfirdn2dArguments, "upfirdn2d", _forward, _fake, _setup_context, _backward)
