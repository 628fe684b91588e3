"""The operators as the networks call them: our kernels where they serve the input, the PyTorch reference elsewhere.

`upfirdn2d`, `modulated_conv2d` and `bias_act` take the arguments of the references of the same names, and give the same
result. Which of the two runs is decided by the input alone (`custom_op.has_kernels`): on a CPU these are the references,
operation by operation, with whatever PyTorch's compiler makes of them; on a CUDA device they are the custom ops of
`kernel_ops.py`. Either can be differentiated twice, which R1 and path length regularisation need.

Memory layout: a kernel's result is laid out as `x` is (NCHW or channels_last), but for `modulated_conv2d`, which works in
channels_last and returns it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stylert.plugins import kernel_ops
from stylert.plugins.custom_op import has_kernels
from stylert.plugins.reference import bias_act as _bias_act_reference
from stylert.plugins.reference import modulated_conv2d as _conv_reference
from stylert.plugins.reference import upfirdn2d as _fir_reference
from stylert.plugins.shapes import Epilogue, Resampling

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
    """Upsample, pad, filter and decimate `[N, C, H, W]`; see `stylert.plugins.reference.upfirdn2d.upfirdn2d`.

    The filter is a constant: it has no gradient.

    Raises:
        ValueError: on a shape, dtype, factor or padding that the operator does not define, or a filter with a gradient.
    """
    spec = kernel_ops.resampling(x, f, Resampling.of(up, down, padding, flip, gain))
    if f.requires_grad:
        raise ValueError("upfirdn2d: the filter is a constant and has no gradient: pass f.detach()")
    if has_kernels(x):
        return kernel_ops.resample(x, f, spec)
    return _fir_reference.upfirdn2d(x, f, spec.up, spec.down, spec.padding, spec.flip, spec.gain)


def upsample2d(x: Tensor, f: Tensor, up: int = 2) -> Tensor:
    """Upsample `[N, C, H, W]` by `up` with FIR `f`, keeping the mean; see `stylert.plugins.reference.upfirdn2d.upsample2d`."""
    return upfirdn2d(x, f, up=up, padding=_fir_reference.upsampling_padding(f, up), gain=float(up * up))


def downsample2d(x: Tensor, f: Tensor, down: int = 2) -> Tensor:
    """Low-pass `[N, C, H, W]` with FIR `f` and keep every `down`-th pixel; see `stylert.plugins.reference.upfirdn2d.downsample2d`."""
    return upfirdn2d(x, f, down=down, padding=_fir_reference.downsampling_padding(f, down))


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
    """One whole synthesis layer; see `stylert.plugins.reference.modulated_conv2d.modulated_conv2d`.

    The noise is one value per pixel, broadcastable to `[N, 1, H * up, W * up]`. Gradients reach every operand but `f`.

    Raises:
        ValueError: on operands or attributes that the operator does not define, or a filter with a gradient.
    """
    layer = kernel_ops.Layer(x, weight, style, demod, noise, bias, f, up, activation, gain, clamp)
    kernel_ops.layer_shape(layer)
    if f is not None and f.requires_grad:
        raise ValueError("modulated_conv2d: the filter is a constant and has no gradient: pass f.detach()")
    if has_kernels(x):
        return torch.ops.stylert.modulated_conv2d(*layer)
    return _conv_reference.modulated_conv2d(*layer[:6], up=up, f=f, activation=activation, gain=gain, clamp=clamp)


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    activation: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """`clamp(gain * activation(x + b))` of `[N, C, ...]`; see `stylert.plugins.reference.bias_act.bias_act`.

    Raises:
        ValueError: on operands or attributes that the operator does not define.
    """
    kernel_ops.check_bias_act(x, b, Epilogue.of(activation, gain, clamp))
    if has_kernels(x):
        return torch.ops.stylert.bias_act(x, b, activation, gain, clamp)
    return _bias_act_reference.bias_act(x, b, activation=activation, gain=gain, clamp=clamp)
