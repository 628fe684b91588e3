"""Checks of upfirdn2d, bias_act and torgb, and of the PyTorch ops with their derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from stylert.benchmarks.kernels.parity.check import (
    MAX_ERROR,
    Check,
    Limits,
    PlannedCheck,
    limits_of,
    normal_tensors,
    random_sizes,
    relative_error,
    worst,
)


def planned_checks(device: str) -> Iterator[PlannedCheck]:
    """A random case of every kernel in every dtype, and of the PyTorch ops."""
    limits = limits_of(device)
    for dtype in MAX_ERROR:
        yield PlannedCheck("torgb", dtype, partial(_to_rgb, device=device, dtype=dtype, limits=limits))
        yield PlannedCheck("upfirdn2d", dtype, partial(_upfirdn2d, device=device, dtype=dtype, limits=limits))
        yield PlannedCheck("bias_act", dtype, partial(_bias_act, device=device, dtype=dtype, limits=limits))
    yield PlannedCheck("ops.modulated_conv2d", "float32", partial(_ops, device=device))


def _to_rgb(rng: np.random.Generator, device: str, dtype: str, limits: Limits) -> Check:
    import torch

    from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
    from stylert.plugins.reference.upfirdn2d import upsample2d
    from stylert.plugins.triton.to_rgb import Rgb, to_rgb_into

    draw = normal_tensors(rng, device)
    n, i, half_h, half_w = random_sizes(rng, limits.samples, 4 * limits.channels, limits.pixels // 2, limits.pixels // 2)
    h, w = 2 * half_h, 2 * half_w
    x = draw(n, h, w, i).to(getattr(torch, dtype))
    weight, style, bias = (draw(3, i) / i**0.5).float(), draw(n, i).float(), draw(3).float()
    skip, f = draw(n, half_h, half_w, 3).float(), (draw(4, 4) / 4).float()
    rgb = Rgb(torch.full((n, h, w, 3), float("nan"), device=device), weight, style, bias, skip, f, clamp=2.0)
    to_rgb_into(x, rgb)
    below = upsample2d(skip.double().permute(0, 3, 1, 2), f.double())
    exact, kernel, styles = x.double().permute(0, 3, 1, 2), weight.double()[:, :, None, None], style.double()
    image = modulated_conv2d(exact, kernel, styles, bias=bias.double(), clamp=rgb.clamp) + below
    terms = modulated_conv2d(exact.abs(), kernel.abs(), styles.abs(), bias=bias.double().abs())
    # The activations are exact, and all products are float32.
    error = relative_error(rgb.image.permute(0, 3, 1, 2), image, terms=terms)
    return Check("torgb", dtype, f"x {[n, h, w, i]}", error, MAX_ERROR["float32"])


def _upfirdn2d(rng: np.random.Generator, device: str, dtype: str, limits: Limits) -> Check:
    import torch

    from stylert.plugins.reference.upfirdn2d import upfirdn2d
    from stylert.plugins.shapes import Resampling
    from stylert.plugins.triton.upfirdn2d import upfirdn2d_into

    draw = normal_tensors(rng, device)
    while True:
        up, down = (tuple(int(v) for v in rng.integers(1, 4 if rng.integers(2) else 3, 2)) for _ in range(2))
        spec = Resampling.of(up, down, [int(v) for v in rng.integers(-1, 5, 4)], bool(rng.integers(2)), 1.5)
        n, c, h, w = random_sizes(rng, limits.samples, limits.channels, limits.pixels, limits.pixels)
        taps = tuple(int(v) for v in rng.integers(1, 6, 2))
        try:
            out = spec.output_size((h, w), (taps[0], taps[1]))
            break
        except ValueError:
            continue  # the result would be empty
    layout = [torch.contiguous_format, torch.channels_last][int(rng.integers(2))]
    x = draw(n, c, h, w).to(getattr(torch, dtype)).contiguous(memory_format=layout)
    f = draw(*taps).float()
    y = torch.full((n, c, *out), float("nan"), dtype=x.dtype, device=device).contiguous(memory_format=layout)
    upfirdn2d_into(y, x, f, spec)
    reference = upfirdn2d(x.double(), f.double(), spec.up, spec.down, spec.padding, spec.flip, spec.gain)
    return Check("upfirdn2d", dtype, f"{list(x.shape)} {spec}", relative_error(y, reference), MAX_ERROR[dtype])


def _bias_act(rng: np.random.Generator, device: str, dtype: str, limits: Limits) -> Check:
    """Forward and backward."""
    import torch

    from stylert.plugins.reference.bias_act import bias_act
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.bias_act import bias_act_gradient_into, bias_act_into

    draw = normal_tensors(rng, device)
    n, c, h, w = random_sizes(rng, limits.samples, limits.channels, limits.pixels, limits.pixels)
    x, dy = (draw(n, c, h, w).to(getattr(torch, dtype)) for _ in range(2))
    b, epilogue = draw(c).float(), Epilogue.of("lrelu", clamp=1.0)
    exact_x = x.double().requires_grad_()
    reference = bias_act(exact_x, b.double(), activation="lrelu", clamp=1.0)
    (expected_dx,) = torch.autograd.grad(reference, exact_x, dy.double())
    y, dx = torch.full_like(x, float("nan")), torch.full_like(x, float("nan"))
    bias_act_into(y, x, b, epilogue, channel_stride=h * w)
    bias_act_gradient_into(dx, y, dy, epilogue)
    # Close to 0 and to the clamp, rounding decides between two gradients, and both are right.
    v = (x.double() + b.double()[:, None, None]) * 2**0.5
    to_kink = torch.minimum(v.abs(), torch.minimum((v - 1).abs(), (0.2 * v + 1).abs()))
    undecided = to_kink < max(torch.finfo(x.dtype).eps, 1e-4)
    dx = torch.where(undecided, expected_dx.to(dx.dtype), dx)
    error = worst([relative_error(y, reference.detach()), relative_error(dx, expected_dx)])
    return Check("bias_act", dtype, f"{list(x.shape)}", error, MAX_ERROR[dtype])


def _ops(rng: np.random.Generator, device: str) -> Iterator[Check]:
    """The PyTorch ops: gradients to second order against the reference, opcheck, and the replay of a CUDA graph."""
    import torch

    from stylert.plugins import ops
    from stylert.plugins.reference import modulated_conv2d as conv_reference
    from stylert.plugins.reference.upfirdn2d import setup_filter

    draw, f = normal_tensors(rng, device), setup_filter().to(device)
    for up in (1, 2):
        name = f"ops.modulated_conv2d up{up}"
        shapes = [(2, 5, 6, 4), (4, 5, 3, 3), (2, 5), (2, 4), (1, 1, 6 * up, 4 * up), (4,)]
        operands = [draw(*shape).float().requires_grad_() for shape in shapes]
        results = [
            _value_and_gradients(module.modulated_conv2d, operands, dtype, up, f)
            for module, dtype in ((ops, torch.float32), (conv_reference, torch.float64))
        ]
        # A second derivative sums thousands of products of four factors, each of which rounds in float32.
        error = worst([relative_error(a.detach(), b.detach()) for a, b in zip(*results, strict=True)])
        yield Check(name, "float32", "second order", error, 1e-3)
        if up == 2:
            torch.library.opcheck(torch.ops.stylert.modulated_conv2d.default, (*operands, f, up, "lrelu", None, None))
            yield Check(name, "float32", "opcheck", 0.0, 0.0)  # opcheck raises where it finds a fault
        if device == "cuda":
            fixed = [operand.detach() for operand in operands]
            ops.modulated_conv2d(*fixed, up=up, f=f)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = ops.modulated_conv2d(*fixed, up=up, f=f)
            fixed[0].copy_(draw(*shapes[0]))
            graph.replay()
            reference = conv_reference.modulated_conv2d(*(operand.double() for operand in fixed), up=up, f=f.double())
            yield Check(name, "float32", "CUDA graph", relative_error(y, reference), MAX_ERROR["float32"])


def _value_and_gradients(operator: Callable[..., Any], operands: Sequence[Any], dtype: Any, up: int, f: Any) -> list[Any]:
    """The result of a layer, and its first and second derivatives by every operand."""
    import torch

    inputs = [operand.detach().to(dtype).requires_grad_() for operand in operands]
    y = operator(*inputs, up=up, f=f.to(dtype), activation="lrelu")
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(torch.stack([gradient.square().sum() for gradient in first]).sum(), inputs)
    return [y, *first, *second]
