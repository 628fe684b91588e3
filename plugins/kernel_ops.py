"""The operators as PyTorch custom ops over the Triton kernels, differentiable twice. `ops.py` chooses between them and the references.

What training leaves to whom:

- forward, `modulated_conv2d` is the fused kernel, but for 2x up layers of many channels (see `WIDE`), where cuDNN convolves
  and our kernels do the rest;
- backward, its two convolutions are cuDNN's, of which PyTorch knows the second derivative too. Nothing between the layer's
  input and its output is kept or computed again: what the convolution gave follows from the output, because the layer's tail
  can be undone wherever its gradient is not zero;
- `upfirdn2d` and `bias_act` are our kernels in both directions; each one's gradient is linear and its own transpose's op.

They are opaque to `torch.compile` and `torch.export`: one node each, with a fake kernel for shapes. Called where the kernels do
not serve the input, they give what the reference gives. Each op is a named tuple of its arguments, from which PyTorch's schema
is made, and functions of that tuple.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.custom_op import define, has_kernels, layout
from stylert.plugins.polyphase import fold
from stylert.plugins.reference import bias_act as _bias_act_reference
from stylert.plugins.reference import modulated_conv2d as _conv_reference
from stylert.plugins.reference import upfirdn2d as _fir_reference
from stylert.plugins.shapes import Epilogue, Resampling, modulated_conv2d_shape

#: Input channels from which a 2x up layer is a transposed convolution, FIR and tail instead of the fused kernel. With the FIR
#: folded in, that multiplies 36 taps per input pixel instead of 9 and passes over the output once instead of five times: for I
#: channels 54 I more operations against 32 more bytes in half precision. At 600 TFLOP/s and 3 TB/s (H100), or 250 and 1.5
#: (A100), that is even at about 120 channels. Arithmetic, not a measurement.
WIDE = 128


# --- upfirdn2d -------------------------------------------------------------------------------------------------------


class _Resampling(NamedTuple):
    x: Tensor
    f: Tensor
    up: Sequence[int]
    down: Sequence[int]
    padding: Sequence[int]
    flip: bool
    gain: float


def resample(x: Tensor, f: Tensor, spec: Resampling) -> Tensor:
    return torch.ops.stylert.upfirdn2d(x, f, spec.up, spec.down, spec.padding, spec.flip, spec.gain)


def resampling(x: Tensor, f: Tensor, spec: Resampling) -> Resampling:
    """`spec`, after everything that can be wrong with it and its operands has been refused by a ValueError."""
    if x.ndim != 4 or f.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"upfirdn2d takes a float x [N, C, H, W] and f [fh, fw], not {x.dtype} {x.shape} and {f.shape}")
    spec.output_size((x.shape[2], x.shape[3]), (f.shape[0], f.shape[1]))
    return spec


def _upfirdn2d(call: _Resampling) -> Tensor:
    spec, order = resampling(call.x, call.f, Resampling.of(*call[2:])), layout(call.x)
    if not has_kernels(call.x):
        return _fir_reference.upfirdn2d(*call).contiguous(memory_format=order)
    from stylert.plugins.triton.upfirdn2d import upfirdn2d_into

    y = _upfirdn2d_fake(call)
    with torch.cuda.device_of(call.x):
        upfirdn2d_into(y, call.x, call.f.float().contiguous(), spec)
    return y


def _upfirdn2d_fake(call: _Resampling) -> Tensor:
    x, f = call.x, call.f
    spec = resampling(x, f, Resampling.of(*call[2:]))
    shape = (*x.shape[:2], *spec.output_size((x.shape[2], x.shape[3]), (f.shape[0], f.shape[1])))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout(x))


def _upfirdn2d_setup(ctx: Any, call: _Resampling, y: Tensor) -> None:
    ctx.save_for_backward(call.f)
    ctx.adjoint = Resampling.of(*call[2:]).adjoint((call.x.shape[2], call.x.shape[3]), (call.f.shape[0], call.f.shape[1]))


def _upfirdn2d_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    # The transpose of an upfirdn is an upfirdn, so this is the op itself, and can be differentiated again.
    (f,) = ctx.saved_tensors
    dx = resample(dy, f, ctx.adjoint) if ctx.needs_input_grad[0] else None
    return dx, None, None, None, None, None, None


define(_Resampling, "upfirdn2d", _upfirdn2d, _upfirdn2d_fake, _upfirdn2d_setup, _upfirdn2d_backward)


# --- modulated_conv2d ------------------------------------------------------------------------------------------------


class Layer(NamedTuple):
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


def layer_shape(layer: Layer) -> tuple[int, int, int, int]:
    """The shape of the result, after everything that can be wrong has been refused by a ValueError."""
    Epilogue.of(layer.activation, layer.gain, layer.clamp)
    x, operands = layer.x, layer[:7]
    for t in operands:
        if t is not None and (not t.is_floating_point() or t.device != x.device):
            raise ValueError(f"modulated_conv2d: operands are float tensors on {x.device}, not {t.dtype} on {t.device}")
    demod, noise, bias, f = (None if t is None else t.shape for t in operands[3:])
    return modulated_conv2d_shape(x.shape, layer.weight.shape, layer.style.shape, demod, noise, bias, f, layer.up)


def _modulated_conv2d(layer: Layer) -> Tensor:
    shape = layer_shape(layer)
    if not has_kernels(layer.x):
        y = _conv_reference.modulated_conv2d(
            *layer[:6], up=layer.up, f=layer.f, activation=layer.activation, gain=layer.gain, clamp=layer.clamp
        )
        return y.contiguous(memory_format=layout(layer.x))
    if layer.up == 2 and layer.x.shape[1] >= WIDE:
        return _up_apart(layer).contiguous(memory_format=torch.channels_last)
    return _fused(layer, shape)


def _fused(layer: Layer, shape: tuple[int, int, int, int]) -> Tensor:
    """Everything in one kernel."""
    from stylert.plugins.triton.modulated_conv2d import conv_problem, modulated_conv2d_into, workspace_elements
    from stylert.plugins.triton.tiles import choose_tile

    x, weight, style, demod, noise, bias, f = layer[:7]
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    n, o, height, width = shape
    folded = fold(weight.float(), f.float()) if layer.up == 2 and f is not None else weight[None]
    nhwc, phases = x.permute(0, 2, 3, 1).contiguous(), folded.to(x.dtype).permute(0, 1, 3, 4, 2).contiguous()
    on_tensor_cores = "tf32" if torch.backends.cudnn.allow_tf32 else "tf32x3"
    with torch.cuda.device_of(x):
        tile = choose_tile(conv_problem(nhwc, phases))
        elements = workspace_elements(n, x.shape[2] * x.shape[3], o, phases.shape[0], tile.splits)
        modulated_conv2d_into(
            y.permute(0, 2, 3, 1),
            nhwc,
            phases,
            _side(style),
            _side(demod),
            None if noise is None else _side(noise.expand(n, 1, height, width)[:, 0], contiguous=False),
            _side(bias),
            tail=Epilogue.of(layer.activation, layer.gain, layer.clamp),
            tile=tile,
            precision="ieee" if x.device.type == "cpu" else on_tensor_cores,  # the interpreter has none
            workspace=torch.empty(elements, device=x.device) if elements else None,
        )
    return y


def _up_apart(layer: Layer) -> Tensor:
    """A 2x up layer as cuDNN's transposed convolution, our FIR, and the tail."""
    x, weight, style, demod, noise, bias, f = layer[:7]
    assert f is not None
    y = F.conv_transpose2d(x * _per_channel(style, x), weight.to(x.dtype).transpose(0, 1), stride=2)
    y = resample(y, f, _centring(weight.shape[2], f))
    if demod is not None:
        y = y * _per_channel(demod, y)
    if noise is not None:
        y = y + noise.to(y.dtype)
    return torch.ops.stylert.bias_act(y, bias, layer.activation, layer.gain, layer.clamp)


def _modulated_conv2d_fake(layer: Layer) -> Tensor:
    x = layer.x
    order = torch.channels_last if has_kernels(x) else layout(x)
    return torch.empty(layer_shape(layer), dtype=x.dtype, device=x.device, memory_format=order)


def _modulated_conv2d_setup(ctx: Any, layer: Layer, y: Tensor) -> None:
    ctx.save_for_backward(*layer[:7], y)
    ctx.attributes = layer[7:]


def _modulated_conv2d_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """With `c` the convolution of `s * x`, `v = d * c + noise + b` and `y = tail(v)`:

        dv = tail'(y) dy,   dd = sum dv * c,   and the gradients of `s * x` and `w` are those of the convolution for `d * dv`.

    `c` follows from `y` where `dv` is not zero. A `demod` of zero, which `demodulation` never returns, has no such gradient: NaN.
    Made of differentiable operations, for the second derivative.
    """
    x, weight, style, demod, noise, bias, f, y = ctx.saved_tensors
    up, activation, gain, clamp = ctx.attributes
    wants = dict(zip(Layer._fields, ctx.needs_input_grad, strict=False))
    y = y.detach()  # between its kinks the layer is linear: its slope does not change with y
    dv = torch.ops.stylert.bias_act_gradient(y, dy, activation, gain, clamp)
    s, w = _per_channel(style, x), weight.to(x.dtype)
    sx = x * s
    grads: dict[str, Tensor] = {}
    if bias is not None and wants["bias"]:
        grads["bias"] = dv.sum((0, 2, 3), dtype=_wide(dv)).to(bias.dtype)
    if noise is not None and wants["noise"]:
        grads["noise"] = dv.sum(1, keepdim=True, dtype=_wide(dv)).sum_to_size(noise.shape).to(noise.dtype)
    if demod is not None and wants["demod"]:
        tail = Epilogue.of(activation, gain, clamp)
        with torch.no_grad():
            c = torch.where(y > 0, y, y / tail.slope) / tail.gain
            c = c if noise is None else c - noise.to(y.dtype)
            c = c if bias is None else c - bias.to(y.dtype)[:, None, None]
            c = c / _per_channel(demod, c)
        c = _Convolved.apply(sx, w, f, up, c)
        grads["demod"] = (dv * c).sum((2, 3), dtype=_wide(dv)).to(demod.dtype)
    if wants["x"] or wants["weight"] or wants["style"]:
        dc = dv if demod is None else dv * _per_channel(demod, dv)
        dsx, dw = _convolution_gradients(dc, sx, w, f, up, wants["x"] or wants["style"], wants["weight"])
        if wants["x"]:
            grads["x"] = dsx * s
        if wants["style"]:
            grads["style"] = (dsx * x).sum((2, 3), dtype=_wide(dsx)).to(style.dtype)
        if wants["weight"]:
            grads["weight"] = dw.to(weight.dtype)
    return tuple(grads.get(field) for field in Layer._fields)


def _convolution_gradients(
    dc: Tensor, sx: Tensor, w: Tensor, f: Tensor | None, up: int, of_input: bool, of_weight: bool
) -> tuple[Any, Any]:
    """What a gradient of the convolution (and FIR) makes of its input and weight; None where it is not wanted."""
    k = w.shape[2]
    if up == 2:
        assert f is not None
        size = 2 * sx.shape[2] + k - 2, 2 * sx.shape[3] + k - 2
        dc = resample(dc, f, _centring(k, f).adjoint(size, (f.shape[0], f.shape[1])))
        w = w.transpose(0, 1)
    edge = 0 if up == 2 else k // 2
    dsx, dw, _ = torch.ops.aten.convolution_backward(
        dc, sx, w, None, [up, up], [edge, edge], [1, 1], up == 2, [0, 0], 1, [of_input, of_weight, False]
    )
    return dsx, dw.transpose(0, 1) if up == 2 and of_weight else dw


class _Convolved(torch.autograd.Function):
    """The convolution of `sx` by `w`, whose value is known already."""

    @staticmethod
    def forward(ctx: Any, sx: Tensor, w: Tensor, f: Tensor | None, up: int, value: Tensor) -> Tensor:
        ctx.save_for_backward(sx, w, f)
        ctx.up = up
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *dc: Tensor) -> tuple[Any, ...]:
        sx, w, f = ctx.saved_tensors
        return *_convolution_gradients(dc[0], sx, w, f, ctx.up, *ctx.needs_input_grad[:2]), None, None, None


def _centring(k: int, f: Tensor) -> Resampling:
    """The FIR behind a transposed convolution."""
    return Resampling.of(padding=_conv_reference.fir_padding(k, f.shape[0]), gain=4.0)


def _per_channel(t: Tensor, x: Tensor) -> Tensor:
    """`[N, C]` beside `x` `[N, C, H, W]`."""
    return t.to(x.dtype)[:, :, None, None]


def _wide(t: Tensor) -> torch.dtype:
    """What sums of `t` are added up in."""
    return torch.promote_types(t.dtype, torch.float32)


def _side(t: Tensor | None, *, contiguous: bool = True) -> Tensor | None:
    """A small operand as the kernels take it; they read any float dtype but float64."""
    if t is None:
        return None
    t = t.float() if t.dtype == torch.float64 else t
    return t.contiguous() if contiguous else t


define(
    Layer, "modulated_conv2d", _modulated_conv2d, _modulated_conv2d_fake, _modulated_conv2d_setup, _modulated_conv2d_backward
)  # fmt: skip


# --- bias_act --------------------------------------------------------------------------------------------------------


class _BiasAct(NamedTuple):
    x: Tensor
    b: Tensor | None
    activation: str
    gain: float | None
    clamp: float | None


class _BiasActGradient(NamedTuple):
    """Of the result `y`, not of the input: `y` is kept anyway, as the next layer's input."""

    y: Tensor
    dy: Tensor
    activation: str
    gain: float | None
    clamp: float | None


def check_bias_act(x: Tensor, b: Tensor | None, tail: Epilogue) -> Epilogue:
    """`tail`, after operands that do not fit have been refused by a ValueError."""
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(f"bias_act takes a float x [N, C, ...], not {x.dtype} {list(x.shape)}")
    if b is not None and (b.shape != x.shape[1:2] or not b.is_floating_point() or b.device != x.device):
        raise ValueError(
            f"bias_act: bias {b.dtype} {list(b.shape)} on {b.device} does not match {x.shape[1]} channels on {x.device}"
        )
    return tail


def _bias_act(call: _BiasAct) -> Tensor:
    x, b, tail = call.x, call.b, check_bias_act(call.x, call.b, Epilogue.of(*call[2:]))
    if not has_kernels(x):
        y = _bias_act_reference.bias_act(x, b, activation=call.activation, gain=call.gain, clamp=call.clamp)
        # With nothing to do the reference returns its input, which an op may not.
        return (y.clone() if y is x else y).contiguous(memory_format=layout(x))
    from stylert.plugins.triton.bias_act import bias_act_into

    order = layout(x)
    x = x.contiguous(memory_format=order)
    y = torch.empty_like(x, memory_format=order)
    step = 1 if order == torch.channels_last else x[0, 0].numel() if x.numel() else 1
    with torch.cuda.device_of(x):
        bias_act_into(y, x, None if b is None else b.float().contiguous(), tail, step=step)
    return y


def _bias_act_fake(call: _BiasAct) -> Tensor:
    check_bias_act(call.x, call.b, Epilogue.of(*call[2:]))
    return torch.empty_like(call.x, memory_format=layout(call.x))


def _bias_act_setup(ctx: Any, call: _BiasAct, y: Tensor) -> None:
    ctx.save_for_backward(y, call.b)
    ctx.attributes = call[2:]


def _bias_act_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    y, b = ctx.saved_tensors
    dx = torch.ops.stylert.bias_act_gradient(y, dy, *ctx.attributes)
    db = dx.sum([0, *range(2, y.ndim)], dtype=_wide(dx)).to(b.dtype) if ctx.needs_input_grad[1] else None
    return dx if ctx.needs_input_grad[0] else None, db, None, None, None


def _bias_act_gradient(call: _BiasActGradient) -> Tensor:
    y, dy, tail, order = call.y, call.dy, _check_gradient(call), layout(call.y)
    if not has_kernels(y):
        dx = torch.where(y > 0, dy, dy * tail.slope) * tail.gain
        if tail.clamp:  # what was clamped is the bound as this dtype holds it
            dx = torch.where(y.abs() < torch.tensor(tail.clamp, dtype=y.dtype, device=y.device), dx, 0.0)
        return dx.contiguous(memory_format=order)
    from stylert.plugins.triton.bias_act import bias_act_gradient_into

    y, dy = y.contiguous(memory_format=order), dy.contiguous(memory_format=order)
    dx = torch.empty_like(y, memory_format=order)
    with torch.cuda.device_of(y):
        bias_act_gradient_into(dx, y, dy, tail)
    return dx


def _bias_act_gradient_fake(call: _BiasActGradient) -> Tensor:
    _check_gradient(call)
    return torch.empty_like(call.y, memory_format=layout(call.y))


def _check_gradient(call: _BiasActGradient) -> Epilogue:
    y, dy = call.y, call.dy
    if y.ndim < 2 or not y.is_floating_point() or dy.shape != y.shape or dy.dtype != y.dtype:
        raise ValueError(
            f"bias_act: gradient {dy.dtype} {list(dy.shape)} does not match the result, {y.dtype} {list(y.shape)}, a float [N, C, ...]"
        )
    return Epilogue.of(*call[2:])


def _bias_act_gradient_setup(ctx: Any, call: _BiasActGradient, dx: Tensor) -> None:
    ctx.save_for_backward(call.y)
    ctx.attributes = call[2:]


def _bias_act_gradient_backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    # Piecewise linear: the gradient is linear in dy, and its slope does not change with y.
    (y,) = ctx.saved_tensors
    ddy = torch.ops.stylert.bias_act_gradient(y, ddx, *ctx.attributes) if ctx.needs_input_grad[1] else None
    return None, ddy, None, None, None


define(_BiasAct, "bias_act", _bias_act, _bias_act_fake, _bias_act_setup, _bias_act_backward)
define(
    _BiasActGradient, "bias_act_gradient", _bias_act_gradient, _bias_act_gradient_fake, _bias_act_gradient_setup,
    _bias_act_gradient_backward,
)  # fmt: skip
