"""The operators as the networks call them: the Triton kernels where they serve the input, else the PyTorch references.

`upfirdn2d`, `modulated_conv2d` and `bias_act` have the arguments and the results of the references of the same names.
The input alone decides (`has_kernels`): CUDA tensors take the custom ops, CPU tensors the references, operation by
operation. Both can be differentiated twice, as R1 and path length regularisation need.

A result of a kernel keeps the memory layout of `x`, NCHW or channels_last. `modulated_conv2d` returns channels_last.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stylert.plugins.custom_ops import bias_act as bias_act_op
from stylert.plugins.custom_ops import modulated_conv2d as modulated_conv2d_op
from stylert.plugins.custom_ops import upfirdn2d as upfirdn2d_op
from stylert.plugins.custom_ops.define import has_kernels
from stylert.plugins.reference import bias_act as bias_act_reference
from stylert.plugins.reference import modulated_conv2d as modulated_conv2d_reference
from stylert.plugins.reference import upfirdn2d as upfirdn2d_reference
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
    """Upsample, pad, filter and decimate `[N, C, H, W]`; see `reference.upfirdn2d.upfirdn2d`.

    The filter is a constant: it has no gradient.

    Raises:
        ValueError: A shape, dtype, factor or padding that the operator does not define, or a filter that requires a
            gradient.
    """
    return _apply_resampling(x, f, Resampling.of(up, down, padding, flip, gain))


def upsample2d(x: Tensor, f: Tensor, up: int = 2) -> Tensor:
    """Upsample `[N, C, H, W]` by `up` with FIR `f`, keeping the mean; see `reference.upfirdn2d.upsample2d`."""
    return _apply_resampling(x, f, Resampling.upsampling(f.shape, up))


def downsample2d(x: Tensor, f: Tensor, down: int = 2) -> Tensor:
    """Low-pass `[N, C, H, W]` with FIR `f`, keep every `down`-th pixel; see `reference.upfirdn2d.downsample2d`."""
    return _apply_resampling(x, f, Resampling.downsampling(f.shape, down))


def _apply_resampling(x: Tensor, f: Tensor, spec: Resampling) -> Tensor:
    upfirdn2d_op.checked_shape(x, f, spec)
    if f.requires_grad:
        raise ValueError("upfirdn2d: the filter is a constant and has no gradient: pass f.detach()")
    if has_kernels(x):
        return upfirdn2d_op.apply_resampling(x, f, spec)
    return upfirdn2d_reference.apply_resampling(x, f, spec)


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
    """One whole synthesis layer; see `reference.modulated_conv2d.modulated_conv2d`.

    Every operand but `f` has a gradient.

    Raises:
        ValueError: Operands or attributes that the operator does not define, or a filter that requires a gradient.
    """
    arguments = modulated_conv2d_op.ModulatedConv2dArguments(
        x, weight, style, demod, noise, bias, f, up, activation, gain, clamp
    )
    modulated_conv2d_op.checked_shape(arguments)
    if f is not None and f.requires_grad:
        raise ValueError("modulated_conv2d: the filter is a constant and has no gradient: pass f.detach()")
    if has_kernels(x):
        return torch.ops.stylert.modulated_conv2d(*arguments)
    return modulated_conv2d_reference.modulated_conv2d(
        x, weight, style, demod, noise, bias, up=up, f=f, activation=activation, gain=gain, clamp=clamp
    )


def bias_act(
    x: Tensor,
    b: Tensor | None = None,
    *,
    activation: str = "linear",
    gain: float | None = None,
    clamp: float | None = None,
) -> Tensor:
    """`clamp(gain * activation(x + b))` of `[N, C, ...]`; see `reference.bias_act.bias_act`.

    Raises:
        ValueError: Operands or attributes that the operator does not define.
    """
    bias_act_op.check_operands(x, b)
    Epilogue.of(activation, gain, clamp)
    if has_kernels(x):
        return torch.ops.stylert.bias_act(x, b, activation, gain, clamp)
    return bias_act_reference.bias_act(x, b, activation=activation, gain=gain, clamp=clamp)
