"""`stylert::bias_act` and `stylert::bias_act_gradient`: the bias_act kernels as PyTorch custom ops.

The gradient is a function of the result `y` and not of the input, because the next layer keeps `y` anyway. It is linear
in `dy`, so its own gradient is the same op.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from stylert.plugins.custom_ops.define import define_custom_op, has_kernels, memory_format_of, sum_dtype
from stylert.plugins.reference import bias_act as reference
from stylert.plugins.shapes import Epilogue, check_bias_act


class BiasActArguments(NamedTuple):
    """Arguments of `bias_act`, in the order of its schema."""

    x: Tensor
    b: Tensor | None
    activation: str
    gain: float | None
    clamp: float | None


class BiasActGradientArguments(NamedTuple):
    """Arguments of `bias_act_gradient`, in the order of its schema: the result `y`, and the gradient `dy` of it."""

    y: Tensor
    dy: Tensor
    activation: str
    gain: float | None
    clamp: float | None


def check_operands(x: Tensor, b: Tensor | None) -> None:
    """Check x `[N, C, ...]` and b `[C]` or None.

    Raises:
        ValueError: Shapes that do not match, a dtype that is not float, or two devices.
    """
    check_bias_act(x.shape, None if b is None else b.shape)
    for t in (x, b):
        if t is not None and (not t.is_floating_point() or t.device != x.device):
            raise ValueError(f"bias_act: operands are float tensors on {x.device}, not {t.dtype} on {t.device}")


# --- bias_act --------------------------------------------------------------------------------------------------------


def _forward(arguments: BiasActArguments) -> Tensor:
    x, b, activation, gain, clamp = arguments
    check_operands(x, b)
    epilogue = Epilogue.of(activation, gain, clamp)
    layout = memory_format_of(x)
    if not has_kernels(x):
        y = reference.bias_act(x, b, activation=activation, gain=gain, clamp=clamp)
        # The reference may return its input. A custom op must not.
        return (y.clone() if y is x else y).contiguous(memory_format=layout)
    from stylert.plugins.triton.bias_act import bias_act_into

    x = x.contiguous(memory_format=layout)
    y = torch.empty_like(x, memory_format=layout)
    with torch.cuda.device_of(x):
        bias_act_into(y, x, None if b is None else b.float().contiguous(), epilogue, channel_stride=_channel_stride(x, layout))
    return y


def _channel_stride(x: Tensor, layout: torch.memory_format) -> int:
    if layout == torch.channels_last or x.numel() == 0:
        return 1
    return x[0, 0].numel()


def _fake(arguments: BiasActArguments) -> Tensor:
    x, b, activation, gain, clamp = arguments
    check_operands(x, b)
    Epilogue.of(activation, gain, clamp)
    return torch.empty_like(x, memory_format=memory_format_of(x))


def _setup_context(ctx: Any, arguments: BiasActArguments, y: Tensor) -> None:
    ctx.save_for_backward(y, arguments.b)
    ctx.attributes = arguments.activation, arguments.gain, arguments.clamp


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    y, b = ctx.saved_tensors
    dx = torch.ops.stylert.bias_act_gradient(y, dy, *ctx.attributes)
    db = dx.sum([0, *range(2, y.ndim)], dtype=sum_dtype(dx)).to(b.dtype) if ctx.needs_input_grad[1] else None
    return dx if ctx.needs_input_grad[0] else None, db, None, None, None


define_custom_op(BiasActArguments, "bias_act", _forward, _fake, _setup_context, _backward)


# --- its gradient ----------------------------------------------------------------------------------------------------


def _gradient_forward(arguments: BiasActGradientArguments) -> Tensor:
    epilogue = _checked_epilogue(arguments)
    y, dy, layout = arguments.y, arguments.dy, memory_format_of(arguments.y)
    if not has_kernels(y):
        dx = torch.where(y > 0, dy, dy * epilogue.slope) * epilogue.gain
        if epilogue.clamp:
            # A clamped value is the bound as this dtype holds it.
            bound = torch.tensor(epilogue.clamp, dtype=y.dtype, device=y.device)
            dx = torch.where(y.abs() < bound, dx, 0.0)
        return dx.contiguous(memory_format=layout)
    from stylert.plugins.triton.bias_act import bias_act_gradient_into

    y, dy = y.contiguous(memory_format=layout), dy.contiguous(memory_format=layout)
    dx = torch.empty_like(y, memory_format=layout)
    with torch.cuda.device_of(y):
        bias_act_gradient_into(dx, y, dy, epilogue)
    return dx


def _gradient_fake(arguments: BiasActGradientArguments) -> Tensor:
    _checked_epilogue(arguments)
    return torch.empty_like(arguments.y, memory_format=memory_format_of(arguments.y))


def _checked_epilogue(arguments: BiasActGradientArguments) -> Epilogue:
    y, dy, activation, gain, clamp = arguments
    check_bias_act(y.shape, None)
    if not y.is_floating_point() or dy.shape != y.shape or dy.dtype != y.dtype:
        raise ValueError(
            f"bias_act: gradient {dy.dtype} {list(dy.shape)} does not match the float result {y.dtype} {list(y.shape)}"
        )
    return Epilogue.of(activation, gain, clamp)


def _gradient_setup_context(ctx: Any, arguments: BiasActGradientArguments, dx: Tensor) -> None:
    ctx.save_for_backward(arguments.y)
    ctx.attributes = arguments.activation, arguments.gain, arguments.clamp


def _gradient_backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    # The activation is piecewise linear: its slope does not change with y, so y has no gradient.
    (y,) = ctx.saved_tensors
    ddy = torch.ops.stylert.bias_act_gradient(y, ddx, *ctx.attributes) if ctx.needs_input_grad[1] else None
    return None, ddy, None, None, None


define_custom_op(
    BiasActGradientArguments, "bias_act_gradient", _gradient_forward, _gradient_fake, _gradient_setup_context,
    _gradient_backward,
)  # fmt: skip
