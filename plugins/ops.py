"""The operators as PyTorch custom ops: the reference on the CPU, the Triton kernels on CUDA, one autograd for both.

`upfirdn2d`, `modulated_conv2d` and `bias_act` here take the arguments of the references of the same names, and give the
same result. They are opaque to `torch.compile` and `torch.export` (one node each, with a fake kernel for shapes) and can be
differentiated twice, which R1 and path length regularisation need.

Memory layout: on the CPU, and on CUDA but for `modulated_conv2d`, the result is laid out as `x` is (NCHW or channels_last).
On CUDA `modulated_conv2d` works in channels_last and returns it.

Each op is a named tuple of its arguments, from which PyTorch's schema is made, and functions of that tuple.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stylert.plugins import bias_act as _tail_reference
from stylert.plugins import modulated_conv2d as _conv_reference
from stylert.plugins import upfirdn2d as _fir_reference
from stylert.plugins.custom_op import define, has_kernels, layout
from stylert.plugins.polyphase import fold
from stylert.plugins.shapes import Resampling, Tail, modulated_conv2d_shape

PairOrInt = int | Sequence[int]


def upfirdn2d(
    x: Tensor,
    f: Tensor,
    up: PairOrInt = 1,
    down: PairOrInt = 1,
    padding: PairOrInt = 0,
    flip: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """Upsample, pad, filter and decimate `[N, C, H, W]`; see `stylert.plugins.upfirdn2d.upfirdn2d`.

    The filter is a constant: it has no gradient.

    Raises:
        ValueError: on a shape, dtype, factor or padding that the operator does not define, or a filter with a gradient.
    """
    spec = Resampling.of(up, down, padding, flip, gain)
    if f.requires_grad:
        raise ValueError("upfirdn2d: the filter is a constant and has no gradient: pass f.detach()")
    return _resample(x, f, spec)


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    demod: Tensor | None = None,
    noise: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    up: int = 1,
    f: Tensor | None = None,
    activation: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """One whole synthesis layer; see `stylert.plugins.modulated_conv2d.modulated_conv2d`.

    The noise is one value per pixel, broadcastable to `[N, 1, H * up, W * up]`. Gradients reach every operand but `f`.

    Raises:
        ValueError: on operands or attributes that the operator does not define, or a filter with a gradient.
    """
    Tail.of(activation, gain, clamp)
    if f is not None and f.requires_grad:
        raise ValueError("modulated_conv2d: the filter is a constant and has no gradient: pass f.detach()")
    return torch.ops.stylert.modulated_conv2d(x, weight, style, demod, noise, bias, f, up, activation, gain, clamp)


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    activation: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """`clamp(gain * activation(x + b))` of `[N, C, ...]`; see `stylert.plugins.bias_act.bias_act`.

    Raises:
        ValueError: on operands or attributes that the operator does not define.
    """
    Tail.of(activation, gain, clamp)
    return torch.ops.stylert.bias_act(x, b, activation, gain, clamp)


# --- upfirdn2d -------------------------------------------------------------------------------------------------------


class _Resampling(NamedTuple):
    x: Tensor
    f: Tensor
    up: Sequence[int]
    down: Sequence[int]
    padding: Sequence[int]
    flip: bool
    gain: float


def _resample(x: Tensor, f: Tensor, spec: Resampling) -> Tensor:
    return torch.ops.stylert.upfirdn2d(x, f, spec.up, spec.down, spec.padding, spec.flip, spec.gain)


def _upfirdn2d_cpu(call: _Resampling) -> Tensor:
    _resampling(call)
    return _fir_reference.upfirdn2d(*call).contiguous(memory_format=layout(call.x))


def _upfirdn2d_cuda(call: _Resampling) -> Tensor:
    if not has_kernels(call.x):
        return _upfirdn2d_cpu(call)
    from stylert.plugins.kernels.upfirdn2d import upfirdn2d_into

    y = _upfirdn2d_fake(call)
    with torch.cuda.device_of(call.x):
        upfirdn2d_into(y, call.x, call.f.float().contiguous(), Resampling.of(*call[2:]))
    return y


def _upfirdn2d_fake(call: _Resampling) -> Tensor:
    spec, x, f = _resampling(call), call.x, call.f
    shape = (*x.shape[:2], *spec.output_size((x.shape[2], x.shape[3]), (f.shape[0], f.shape[1])))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))


def _upfirdn2d_setup(ctx: Any, call: _Resampling) -> None:
    ctx.save_for_backward(call.f)
    ctx.adjoint = Resampling.of(*call[2:]).adjoint((call.x.shape[2], call.x.shape[3]), (call.f.shape[0], call.f.shape[1]))


def _upfirdn2d_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    # The transpose of an upfirdn is an upfirdn, so this is the op itself, and can be differentiated again.
    (f,) = ctx.saved_tensors
    dx = _resample(dy, f, ctx.adjoint) if ctx.needs_input_grad[0] else None
    return dx, None, None, None, None, None, None


def _resampling(call: _Resampling) -> Resampling:
    x, f = call.x, call.f
    if x.ndim != 4 or f.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"upfirdn2d takes a float x [N, C, H, W] and f [fh, fw], not {x.dtype} {x.shape} and {f.shape}")
    spec = Resampling.of(*call[2:])
    spec.output_size((x.shape[2], x.shape[3]), (f.shape[0], f.shape[1]))
    return spec


define(_Resampling, "upfirdn2d", _upfirdn2d_cpu, _upfirdn2d_cuda, _upfirdn2d_fake, _upfirdn2d_setup, _upfirdn2d_backward)


# --- modulated_conv2d ------------------------------------------------------------------------------------------------


class _Layer(NamedTuple):
    x: Tensor
    weight: Tensor
    style: Tensor
    demod: Tensor | None
    noise: Tensor | None
    bias: Tensor | None
    f: Tensor | None
    up: int
    activation: str
    gain: float | None
    clamp: float | None


def _modulated_conv2d_cpu(layer: _Layer) -> Tensor:
    _layer_shape(layer)
    return _conv_reference.modulated_conv2d(*layer[:6], **_attributes(layer)).contiguous(memory_format=_layer_layout(layer.x))


def _modulated_conv2d_cuda(layer: _Layer) -> Tensor:
    if not has_kernels(layer.x):
        return _modulated_conv2d_cpu(layer)
    from stylert.plugins.kernels.modulated_conv2d import modulated_conv2d_into, problem, workspace_elements
    from stylert.plugins.kernels.tiles import choose_tile

    shape = _layer_shape(layer)
    x, weight, style, demod, noise, bias, f = layer[:7]
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    n, o, height, width = shape
    folded = fold(weight.float(), f.float()) if layer.up == 2 and f is not None else weight[None]
    nhwc, phases = x.permute(0, 2, 3, 1).contiguous(), folded.to(x.dtype).permute(0, 1, 3, 4, 2).contiguous()
    with torch.cuda.device_of(x):
        tile = choose_tile(problem(nhwc, phases))
        elements = workspace_elements(n, x.shape[2] * x.shape[3], o, phases.shape[0], tile.splits)
        modulated_conv2d_into(
            y.permute(0, 2, 3, 1),
            nhwc,
            phases,
            _side(style),
            _side(demod),
            None if noise is None else _side(noise.expand(n, 1, height, width)[:, 0], contiguous=False),
            _side(bias),
            tail=Tail.of(layer.activation, layer.gain, layer.clamp),
            tile=tile,
            precision="tf32" if torch.backends.cudnn.allow_tf32 else "tf32x3",
            workspace=torch.empty(elements, device=x.device) if elements else None,
        )
    return y


def _modulated_conv2d_fake(layer: _Layer) -> Tensor:
    x = layer.x
    return torch.empty(_layer_shape(layer), dtype=x.dtype, device=x.device, memory_format=_layer_layout(x))


def _modulated_conv2d_setup(ctx: Any, layer: _Layer) -> None:
    ctx.save_for_backward(*layer[:7])
    ctx.attributes = _attributes(layer._replace(f=None))


def _modulated_conv2d_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    # The gradient of the reference, built from its differentiable operations, costs one more convolution than keeping
    # what lies between, and can be differentiated again. The operands are aliased: demod is usually computed from the
    # style and the weight, and autograd would otherwise follow it to them here and once more outside.
    *operands, f = ctx.saved_tensors
    with torch.enable_grad():
        aliases: list[Any] = [None if t is None else t.view_as(t) for t in operands]
        y = _conv_reference.modulated_conv2d(*aliases, **{**ctx.attributes, "f": f})
    needed = ctx.needs_input_grad[: len(aliases)]
    wanted = [t for t, is_needed in zip(aliases, needed, strict=True) if is_needed]
    grads = iter(torch.autograd.grad(y, wanted, dy, create_graph=torch.is_grad_enabled()))
    return *(next(grads) if is_needed else None for is_needed in needed), None, None, None, None, None


def _attributes(layer: _Layer) -> dict[str, Any]:
    """What the reference takes by name."""
    return {"up": layer.up, "f": layer.f, "activation": layer.activation, "gain": layer.gain, "clamp": layer.clamp}


def _layer_shape(layer: _Layer) -> tuple[int, int, int, int]:
    """The shape of the result, after everything that can be wrong has been refused."""
    Tail.of(layer.activation, layer.gain, layer.clamp)
    x, operands = layer.x, layer[:7]
    for t in operands:
        if t is not None and (not t.is_floating_point() or t.device != x.device):
            raise ValueError(f"modulated_conv2d: operands are float tensors on {x.device}, not {t.dtype} on {t.device}")
    demod, noise, bias, f = (None if t is None else t.shape for t in operands[3:])
    return modulated_conv2d_shape(x.shape, layer.weight.shape, layer.style.shape, demod, noise, bias, f, layer.up)


def _layer_layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.device.type == "cuda" else layout(x)


def _side(t: Tensor | None, *, contiguous: bool = True) -> Tensor | None:
    """A small operand as the kernels take it; they read any float dtype but float64."""
    if t is None:
        return None
    t = t.float() if t.dtype == torch.float64 else t
    return t.contiguous() if contiguous else t


define(
    _Layer, "modulated_conv2d", _modulated_conv2d_cpu, _modulated_conv2d_cuda, _modulated_conv2d_fake,
    _modulated_conv2d_setup, _modulated_conv2d_backward,
)  # fmt: skip


# --- bias_act --------------------------------------------------------------------------------------------------------


class _BiasAct(NamedTuple):
    x: Tensor
    b: Tensor | None
    activation: str
    gain: float | None
    clamp: float | None


class _BiasActGradient(NamedTuple):
    x: Tensor
    b: Tensor | None
    dy: Tensor
    activation: str
    gain: float | None
    clamp: float | None


def _bias_act_cpu(call: _BiasAct) -> Tensor:
    _check_tail(call)
    y = _tail_reference.bias_act(call.x, call.b, activation=call.activation, gain=call.gain, clamp=call.clamp)
    # With nothing to do the reference returns its input, which an op may not.
    return y.clone() if y is call.x else y


def _bias_act_gradient_cpu(call: _BiasActGradient) -> Tensor:
    tail = _check_tail(call)
    v = call.x if call.b is None else call.x + call.b.to(call.x.dtype).reshape([1, -1] + [1] * (call.x.ndim - 2))
    dx = torch.where(v > 0, call.dy, call.dy * tail.slope) * tail.gain
    if not tail.clamp:
        return dx
    y = torch.where(v > 0, v, v * tail.slope) * tail.gain
    return torch.where(y.abs() <= tail.clamp, dx, 0.0)


def _bias_act_cuda(call: _BiasAct | _BiasActGradient) -> Tensor:
    """The value, or with `dy` among the arguments the gradient."""
    dy = call.dy if isinstance(call, _BiasActGradient) else None
    if not has_kernels(call.x):
        return _bias_act_gradient_cpu(call) if isinstance(call, _BiasActGradient) else _bias_act_cpu(call)
    from stylert.plugins.kernels.bias_act import bias_act_into

    tail, order = _check_tail(call), layout(call.x)
    x = call.x.contiguous(memory_format=order)
    y = torch.empty_like(x, memory_format=order)
    step = 1 if order == torch.channels_last else x[0, 0].numel() if x.numel() else 1
    with torch.cuda.device_of(x):
        bias_act_into(
            y, x, None if call.b is None else call.b.float().contiguous(), tail,
            step=step, dy=None if dy is None else dy.contiguous(memory_format=order),
        )  # fmt: skip
    return y


def _bias_act_fake(call: _BiasAct | _BiasActGradient) -> Tensor:
    _check_tail(call)
    return torch.empty_like(call.x, memory_format=layout(call.x))


def _bias_act_setup(ctx: Any, call: _BiasAct | _BiasActGradient) -> None:
    ctx.save_for_backward(call.x, call.b)
    ctx.attributes = call[-3:]


def _bias_act_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, b = ctx.saved_tensors
    dx = torch.ops.stylert.bias_act_gradient(x, b, dy, *ctx.attributes)
    db = dx.sum([0, *range(2, x.ndim)]).to(b.dtype) if ctx.needs_input_grad[1] else None
    return dx if ctx.needs_input_grad[0] else None, db, None, None, None


def _bias_act_gradient_backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    # Piecewise linear: the gradient is linear in dy, and its slope does not change with x.
    x, b = ctx.saved_tensors
    ddy = torch.ops.stylert.bias_act_gradient(x, b, ddx, *ctx.attributes) if ctx.needs_input_grad[2] else None
    return None, None, ddy, None, None, None


def _check_tail(call: _BiasAct | _BiasActGradient) -> Tail:
    x, b = call.x, call.b
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(f"bias_act takes a float x [N, C, ...], not {x.dtype} {list(x.shape)}")
    if b is not None and (b.shape != x.shape[1:2] or not b.is_floating_point() or b.device != x.device):
        raise ValueError(
            f"bias_act: bias {b.dtype} {list(b.shape)} on {b.device} does not match {x.shape[1]} channels on {x.device}"
        )
    if isinstance(call, _BiasActGradient) and (call.dy.shape != x.shape or call.dy.dtype != x.dtype):
        raise ValueError(
            f"bias_act: gradient {call.dy.dtype} {list(call.dy.shape)} does not match x, {x.dtype} {list(x.shape)}"
        )
    return Tail.of(*call[-3:])


define(_BiasAct, "bias_act", _bias_act_cpu, _bias_act_cuda, _bias_act_fake, _bias_act_setup, _bias_act_backward)
define(
    _BiasActGradient, "bias_act_gradient", _bias_act_gradient_cpu, _bias_act_cuda, _bias_act_fake, _bias_act_setup,
    _bias_act_gradient_backward,
)  # fmt: skip
