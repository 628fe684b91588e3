"""The operators as PyTorch custom ops: the reference on the CPU, the Triton kernels on CUDA, one autograd for both.

`upfirdn2d` and `modulated_conv2d` here take the arguments of the references of the same names, and give the same
result. They are opaque to `torch.compile` and `torch.export` (one node each, with a fake kernel for shapes) and can be
differentiated twice, which R1 and path length regularisation need.

Memory layout: on the CPU, and for `upfirdn2d` everywhere, the result is laid out as `x` is (NCHW or channels_last). On
CUDA `modulated_conv2d` works in channels_last and returns it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stylert.plugins import modulated_conv2d as _conv_reference
from stylert.plugins import upfirdn2d as _fir_reference
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
    return _upfirdn2d(x, f, spec)


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


# --- upfirdn2d -------------------------------------------------------------------------------------------------------


@torch.library.custom_op("stylert::upfirdn2d", mutates_args=(), device_types="cpu")
def _upfirdn2d_op(
    x: Tensor, f: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip: bool, gain: float
) -> Tensor:
    return _upfirdn2d_by_reference(x, f, up, down, padding, flip, gain)


@_upfirdn2d_op.register_kernel("cuda")
def _upfirdn2d_cuda(
    x: Tensor, f: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip: bool, gain: float
) -> Tensor:
    if not _has_kernels(x):
        return _upfirdn2d_by_reference(x, f, up, down, padding, flip, gain)
    from stylert.plugins.kernels.upfirdn2d import upfirdn2d_into

    y = _upfirdn2d_fake(x, f, up, down, padding, flip, gain)
    with torch.cuda.device_of(x):
        upfirdn2d_into(y, x, f.float().contiguous(), Resampling.of(up, down, padding, flip, gain))
    return y


@_upfirdn2d_op.register_fake
def _upfirdn2d_fake(
    x: Tensor, f: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip: bool, gain: float
) -> Tensor:
    spec = _resampling(x, f, up, down, padding, flip, gain)
    n, c, h, w = x.shape
    shape = (n, c, *spec.output_size((h, w), (f.shape[0], f.shape[1])))
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layout(x))


def _upfirdn2d_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, up, down, padding, flip, gain = inputs
    ctx.save_for_backward(f)
    ctx.size = (x.shape[2], x.shape[3])
    ctx.spec = Resampling.of(up, down, padding, flip, gain)


def _upfirdn2d_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    # The transpose of an upfirdn is an upfirdn, so this is the op itself, and can be differentiated again.
    (f,) = ctx.saved_tensors
    adjoint = ctx.spec.adjoint(ctx.size, (f.shape[0], f.shape[1]))
    dx = _upfirdn2d(dy, f, adjoint) if ctx.needs_input_grad[0] else None
    return dx, None, None, None, None, None, None


_upfirdn2d_op.register_autograd(_upfirdn2d_backward, setup_context=_upfirdn2d_setup)


def _upfirdn2d_by_reference(
    x: Tensor, f: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip: bool, gain: float
) -> Tensor:
    _resampling(x, f, up, down, padding, flip, gain)
    y = _fir_reference.upfirdn2d(x, f, up, down, padding, flip, gain)
    return y.contiguous(memory_format=_layout(x))


def _upfirdn2d(x: Tensor, f: Tensor, spec: Resampling) -> Tensor:
    return torch.ops.stylert.upfirdn2d(x, f, spec.up, spec.down, spec.padding, spec.flip, spec.gain)


def _resampling(
    x: Tensor, f: Tensor, up: Sequence[int], down: Sequence[int], padding: Sequence[int], flip: bool, gain: float
) -> Resampling:
    if x.ndim != 4 or f.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"upfirdn2d takes a float x [N, C, H, W] and f [fh, fw], not {x.dtype} {x.shape} and {f.shape}")
    spec = Resampling.of(up, down, padding, flip, gain)
    spec.output_size((x.shape[2], x.shape[3]), (f.shape[0], f.shape[1]))
    return spec


# --- modulated_conv2d ------------------------------------------------------------------------------------------------


@torch.library.custom_op("stylert::modulated_conv2d", mutates_args=(), device_types="cpu")
def _modulated_conv2d_op(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    demod: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    f: Tensor | None,
    up: int,
    activation: str,
    gain: float | None,
    clamp: float | None,
) -> Tensor:
    _check_layer(x, weight, style, demod, noise, bias, f, up, activation, gain, clamp)
    attributes: dict[str, Any] = {"up": up, "f": f, "activation": activation, "gain": gain, "clamp": clamp}
    y = _conv_reference.modulated_conv2d(x, weight, style, demod, noise, bias, **attributes)
    return y.contiguous(memory_format=_layer_layout(x))


@_modulated_conv2d_op.register_kernel("cuda")
def _modulated_conv2d_cuda(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    demod: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    f: Tensor | None,
    up: int,
    activation: str,
    gain: float | None,
    clamp: float | None,
) -> Tensor:
    shape = _check_layer(x, weight, style, demod, noise, bias, f, up, activation, gain, clamp)
    if not _has_kernels(x):
        attributes: dict[str, Any] = {"up": up, "f": f, "activation": activation, "gain": gain, "clamp": clamp}
        y = _conv_reference.modulated_conv2d(x, weight, style, demod, noise, bias, **attributes)
        return y.contiguous(memory_format=_layer_layout(x))
    from stylert.plugins.kernels.modulated_conv2d import modulated_conv2d_into

    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    n, _, height, width = shape
    phases = fold(weight.float(), f.float()) if up == 2 and f is not None else weight[None]
    with torch.cuda.device_of(x):
        modulated_conv2d_into(
            y.permute(0, 2, 3, 1),
            x.permute(0, 2, 3, 1).contiguous(),
            phases.to(x.dtype).permute(0, 1, 3, 4, 2).contiguous(),
            _side(style),
            _side(demod),
            None if noise is None else _side(noise.expand(n, 1, height, width)[:, 0], contiguous=False),
            _side(bias),
            tail=Tail.of(activation, gain, clamp),
            precision="tf32" if torch.backends.cudnn.allow_tf32 else "tf32x3",
        )
    return y


@_modulated_conv2d_op.register_fake
def _modulated_conv2d_fake(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    demod: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    f: Tensor | None,
    up: int,
    activation: str,
    gain: float | None,
    clamp: float | None,
) -> Tensor:
    shape = _check_layer(x, weight, style, demod, noise, bias, f, up, activation, gain, clamp)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_layer_layout(x))


def _modulated_conv2d_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, up, activation, gain, clamp = inputs
    ctx.save_for_backward(*tensors)
    ctx.attributes = {"up": up, "activation": activation, "gain": gain, "clamp": clamp}


def _modulated_conv2d_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    # The gradient of the reference, built from its differentiable operations, costs one more convolution than keeping
    # what lies between, and can be differentiated again. The operands are aliased: demod is usually computed from the
    # style and the weight, and autograd would otherwise follow it to them here and once more outside.
    *operands, f = ctx.saved_tensors
    with torch.enable_grad():
        aliases: list[Any] = [None if t is None else t.view_as(t) for t in operands]
        y = _conv_reference.modulated_conv2d(*aliases, f=f, **ctx.attributes)
    needed = ctx.needs_input_grad[: len(aliases)]
    wanted = [t for t, is_needed in zip(aliases, needed, strict=True) if is_needed]
    grads = iter(torch.autograd.grad(y, wanted, dy, create_graph=torch.is_grad_enabled()))
    return *(next(grads) if is_needed else None for is_needed in needed), None, None, None, None, None


_modulated_conv2d_op.register_autograd(_modulated_conv2d_backward, setup_context=_modulated_conv2d_setup)


def _check_layer(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    demod: Tensor | None,
    noise: Tensor | None,
    bias: Tensor | None,
    f: Tensor | None,
    up: int,
    activation: str,
    gain: float | None,
    clamp: float | None,
) -> tuple[int, int, int, int]:
    """The shape of the result, after everything that can be wrong has been refused."""
    Tail.of(activation, gain, clamp)
    for t in (x, weight, style, demod, noise, bias, f):
        if t is not None and (not t.is_floating_point() or t.device != x.device):
            raise ValueError(f"modulated_conv2d: operands are float tensors on {x.device}, not {t.dtype} on {t.device}")
    absentable = (None if t is None else t.shape for t in (demod, noise, bias, f))
    demod_shape, noise_shape, bias_shape, f_shape = absentable
    return modulated_conv2d_shape(x.shape, weight.shape, style.shape, demod_shape, noise_shape, bias_shape, f_shape, up)


def _layout(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _layer_layout(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.device.type == "cuda" else _layout(x)


def _has_kernels(x: Tensor) -> bool:
    """Whether the Triton kernels serve `x`: float64 and machines without Triton take the reference."""
    return x.dtype in (torch.float16, torch.bfloat16, torch.float32) and importlib.util.find_spec("triton") is not None


def _side(t: Tensor | None, *, contiguous: bool = True) -> Tensor | None:
    """A small operand as the kernels take it; they read any float dtype but float64."""
    if t is None:
        return None
    t = t.float() if t.dtype == torch.float64 else t
    return t.contiguous() if contiguous else t
