"""`stylert::modulated_conv2d`: the ModulatedConv2d kernels as a PyTorch custom op with first and second derivative.

Forward, a layer is the fused kernel. A 2x up layer of many channels is cuDNN's transposed convolution, then our FIR and
bias_act (`SEPARATE_UP_CHANNELS`).

Backward, the two convolutions are cuDNN's, because PyTorch knows their second derivative too. Nothing between the
layer's input and output is saved or computed again. The result of the convolution follows from the output: the epilogue
can be undone wherever its gradient is not zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.plugins.custom_ops.define import define_custom_op, has_kernels, memory_format_of, sum_dtype
from stylert.plugins.custom_ops.upfirdn2d import apply_resampling
from stylert.plugins.fir_folding import fold
from stylert.plugins.reference import modulated_conv2d as reference
from stylert.plugins.shapes import Epilogue, Resampling, modulated_conv2d_shape

#: Input channels from which a 2x up layer is a transposed convolution, FIR and bias_act in place of the fused kernel.
#: The folded FIR costs four times the products, which many channels do not pay back; see
#: docs/decisions/plugins-wide-up-layers.md.
SEPARATE_UP_CHANNELS = 128


class ModulatedConv2dArguments(NamedTuple):
    """Arguments of the op, in the order of its schema."""

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

    @property
    def operands(self) -> tuple[Tensor | None, ...]:
        return self[:7]

    @property
    def epilogue(self) -> Epilogue:
        return Epilogue.of(self.activation, self.gain, self.clamp)


def checked_shape(arguments: ModulatedConv2dArguments) -> tuple[int, int, int, int]:
    """Shape of the result.

    Raises:
        ValueError: Operands that do not fit together, an operand that is no float tensor on the device of `x`, or an
            attribute that the operator does not define.
    """
    Epilogue.of(arguments.activation, arguments.gain, arguments.clamp)
    x = arguments.x
    for t in arguments.operands:
        if t is not None and (not t.is_floating_point() or t.device != x.device):
            raise ValueError(f"modulated_conv2d: operands are float tensors on {x.device}, not {t.dtype} on {t.device}")
    demod, noise, bias, f = (None if t is None else t.shape for t in arguments.operands[3:])
    return modulated_conv2d_shape(x.shape, arguments.weight.shape, arguments.style.shape, demod, noise, bias, f, arguments.up)


# --- forward ---------------------------------------------------------------------------------------------------------


def _forward(arguments: ModulatedConv2dArguments) -> Tensor:
    shape = checked_shape(arguments)
    x, weight, style, demod, noise, bias, f, up, activation, gain, clamp = arguments
    if not has_kernels(x):
        y = reference.modulated_conv2d(
            x, weight, style, demod, noise, bias, up=up, f=f, activation=activation, gain=gain, clamp=clamp
        )
        return y.contiguous(memory_format=memory_format_of(x))
    if up == 2 and x.shape[1] >= SEPARATE_UP_CHANNELS:
        return _separate_up_layer(arguments).contiguous(memory_format=torch.channels_last)
    return _fused_layer(arguments, shape)


def _fused_layer(arguments: ModulatedConv2dArguments, shape: tuple[int, int, int, int]) -> Tensor:
    """The whole layer in one kernel."""
    from stylert.plugins.triton.modulated_conv2d import conv_problem, modulated_conv2d_into, workspace_elements
    from stylert.plugins.triton.tiles import choose_tile

    x, weight, style, demod, noise, bias, f = arguments.operands
    assert x is not None
    assert weight is not None
    n, o, height, width = shape
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    x_nhwc = x.permute(0, 2, 3, 1).contiguous()
    phases = fold(weight.float(), f.float()) if arguments.up == 2 and f is not None else weight[None]
    phases = phases.to(x.dtype).permute(0, 1, 3, 4, 2).contiguous()
    noise_map = None if noise is None else noise.expand(n, 1, height, width)[:, 0]
    with torch.cuda.device_of(x):
        tile = choose_tile(conv_problem(x_nhwc, phases))
        elements = workspace_elements(n, x.shape[2] * x.shape[3], o, phases.shape[0], tile.splits)
        modulated_conv2d_into(
            y.permute(0, 2, 3, 1),
            x_nhwc,
            phases,
            _contiguous_operand(style),
            _contiguous_operand(demod),
            _kernel_operand(noise_map),
            _contiguous_operand(bias),
            epilogue=arguments.epilogue,
            tile=tile,
            precision=_precision(x),
            workspace=torch.empty(elements, device=x.device) if elements else None,
        )
    return y


def _precision(x: Tensor) -> str:
    """How the kernel multiplies float32. PyTorch's switch for convolutions decides on a GPU."""
    if x.device.type == "cpu":
        return "ieee"  # Triton's interpreter has no tensor cores.
    return "tf32" if torch.backends.cudnn.allow_tf32 else "tf32x3"


def _separate_up_layer(arguments: ModulatedConv2dArguments) -> Tensor:
    """A 2x up layer as cuDNN's transposed convolution, our FIR, and the epilogue."""
    x, weight, style, demod, noise, bias, f, _, activation, gain, clamp = arguments
    assert f is not None
    y = F.conv_transpose2d(x * _channel_factors(style, x), weight.to(x.dtype).transpose(0, 1), stride=2)
    y = apply_resampling(y, f, Resampling.after_transposed_convolution(weight.shape[2], f.shape[0]))
    if demod is not None:
        y = y * _channel_factors(demod, y)
    if noise is not None:
        y = y + noise.to(y.dtype)
    return torch.ops.stylert.bias_act(y, bias, activation, gain, clamp)


def _fake(arguments: ModulatedConv2dArguments) -> Tensor:
    x = arguments.x
    layout = torch.channels_last if has_kernels(x) else memory_format_of(x)
    return torch.empty(checked_shape(arguments), dtype=x.dtype, device=x.device, memory_format=layout)


# --- backward --------------------------------------------------------------------------------------------------------


def _setup_context(ctx: Any, arguments: ModulatedConv2dArguments, y: Tensor) -> None:
    ctx.save_for_backward(*arguments.operands, y)
    ctx.attributes = arguments.up, arguments.activation, arguments.gain, arguments.clamp


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of the operands, from differentiable operations, for the second derivative.

    With `c` the convolution of `s * x`, `v = d * c + noise + b` and `y = epilogue(v)`:

        dv = epilogue'(y) dy,   dd = sum dv * c

    The gradients of `s * x` and of `w` are those of the convolution for `d * dv`. A `demod` of zero, which
    `demodulation` never returns, has the gradient NaN.
    """
    x, weight, style, demod, noise, bias, f, y = ctx.saved_tensors
    up, activation, gain, clamp = ctx.attributes
    wanted = dict(zip(ModulatedConv2dArguments._fields, ctx.needs_input_grad, strict=False))
    y = y.detach()  # The layer is piecewise linear: the slope at y does not change with y.
    dv = torch.ops.stylert.bias_act_gradient(y, dy, activation, gain, clamp)
    s, w = _channel_factors(style, x), weight.to(x.dtype)
    sx = x * s
    grads: dict[str, Tensor] = {}
    if bias is not None and wanted["bias"]:
        grads["bias"] = dv.sum((0, 2, 3), dtype=sum_dtype(dv)).to(bias.dtype)
    if noise is not None and wanted["noise"]:
        grads["noise"] = dv.sum(1, keepdim=True, dtype=sum_dtype(dv)).sum_to_size(noise.shape).to(noise.dtype)
    if demod is not None and wanted["demod"]:
        c = _convolution_result(y, demod, noise, bias, Epilogue.of(activation, gain, clamp))
        c = _KnownConvolution.apply(sx, w, f, up, c)
        grads["demod"] = (dv * c).sum((2, 3), dtype=sum_dtype(dv)).to(demod.dtype)
    if wanted["x"] or wanted["weight"] or wanted["style"]:
        dc = dv if demod is None else dv * _channel_factors(demod, dv)
        dsx, dw = _convolution_gradients(dc, sx, w, f, up, wanted["x"] or wanted["style"], wanted["weight"])
        if wanted["x"]:
            grads["x"] = dsx * s
        if wanted["style"]:
            grads["style"] = (dsx * x).sum((2, 3), dtype=sum_dtype(dsx)).to(style.dtype)
        if wanted["weight"]:
            grads["weight"] = dw.to(weight.dtype)
    return tuple(grads.get(field) for field in ModulatedConv2dArguments._fields)


@torch.no_grad()
def _convolution_result(y: Tensor, demod: Tensor, noise: Tensor | None, bias: Tensor | None, epilogue: Epilogue) -> Tensor:
    """The result of the convolution from the layer's output `y`, wherever `y` is not clamped."""
    c = torch.where(y > 0, y, y / epilogue.slope) / epilogue.gain
    c = c if noise is None else c - noise.to(y.dtype)
    c = c if bias is None else c - bias.to(y.dtype)[:, None, None]
    return c / _channel_factors(demod, c)


def _convolution_gradients(
    dc: Tensor, sx: Tensor, w: Tensor, f: Tensor | None, up: int, of_input: bool, of_weight: bool
) -> tuple[Any, Any]:
    """Gradients of the input and the weight of the convolution (and FIR); None for one that is not wanted."""
    k = w.shape[2]
    if up == 2:
        assert f is not None
        size = 2 * sx.shape[2] + k - 2, 2 * sx.shape[3] + k - 2
        fir = Resampling.after_transposed_convolution(k, f.shape[0])
        dc = apply_resampling(dc, f, fir.adjoint(size, (f.shape[0], f.shape[1])))
        w = w.transpose(0, 1)
    padding = 0 if up == 2 else k // 2
    dsx, dw, _ = torch.ops.aten.convolution_backward(
        dc, sx, w, None, [up, up], [padding, padding], [1, 1], up == 2, [0, 0], 1, [of_input, of_weight, False]
    )
    return dsx, dw.transpose(0, 1) if up == 2 and of_weight else dw


class _KnownConvolution(torch.autograd.Function):
    """The convolution of `sx` by `w` for autograd, with a result that is known already."""

    @staticmethod
    def forward(ctx: Any, sx: Tensor, w: Tensor, f: Tensor | None, up: int, result: Tensor) -> Tensor:
        ctx.save_for_backward(sx, w, f)
        ctx.up = up
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *dc: Tensor) -> tuple[Any, ...]:
        sx, w, f = ctx.saved_tensors
        return *_convolution_gradients(dc[0], sx, w, f, ctx.up, *ctx.needs_input_grad[:2]), None, None, None


def _channel_factors(t: Tensor, x: Tensor) -> Tensor:
    """`[N, C]` as factors of x `[N, C, H, W]`, in its dtype."""
    return t.to(x.dtype)[:, :, None, None]


def _kernel_operand(t: Tensor | None) -> Tensor | None:
    """A small operand in a dtype that the kernels read: any float but float64."""
    return t.float() if t is not None and t.dtype == torch.float64 else t


def _contiguous_operand(t: Tensor | None) -> Tensor | None:
    t = _kernel_operand(t)
    return None if t is None else t.contiguous()


define_custom_op(ModulatedConv2dArguments, "modulated_conv2d", _forward, _fake, _setup_context, _backward)
