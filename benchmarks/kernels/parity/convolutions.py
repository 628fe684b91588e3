"""Checks of ModulatedConv2d: layers in every dtype, split sums, long sums, and layers with torgb in the same kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from stylert.benchmarks.kernels.device import supports_fp8
from stylert.benchmarks.kernels.parity.check import (
    MAX_ERROR,
    MAX_FP8_SUM_ERROR,
    Check,
    Limits,
    PlannedCheck,
    limits_of,
    normal_tensors,
    random_sizes,
    relative_error,
    worst,
)

if TYPE_CHECKING:
    from stylert.plugins.triton.tiles import Tile


def planned_checks(device: str) -> Iterator[PlannedCheck]:
    """A random layer, and one with torgb, in every dtype."""
    limits = limits_of(device)
    for dtype, eight_bit in _dtypes(device):
        name = _conv_name("modulated_conv2d", eight_bit)
        yield PlannedCheck(name, dtype, partial(_conv, device=device, dtype=dtype, eight_bit=eight_bit, limits=limits))
        name = _conv_name("modulated_conv2d rgb", eight_bit)
        yield PlannedCheck(name, dtype, partial(_conv_rgb, device=device, dtype=dtype, eight_bit=eight_bit, limits=limits))


def planned_long_sums(device: str) -> Iterator[PlannedCheck]:
    """The longest sums of a network, in every dtype."""
    for dtype, eight_bit in _dtypes(device):
        name = _conv_name("modulated_conv2d 4608 terms", eight_bit)
        yield PlannedCheck(name, dtype, partial(_conv_of_long_sums, device=device, dtype=dtype, eight_bit=eight_bit))


def _dtypes(device: str) -> list[tuple[str, str | None]]:
    """Dtype of the activations, and 8-bit dtype of the weights or None."""
    eight_bits = ("int8", "fp8") if supports_fp8(device) else ("int8",)
    return [(dtype, None) for dtype in MAX_ERROR] + [("float16", eight_bit) for eight_bit in eight_bits]


@dataclass(frozen=True)
class ConvOperands:
    """Random operands of `modulated_conv2d_into`, and the modulated activations that the kernel multiplies."""

    x: Any  # [N, H, W, I]
    weight: Any  # [up * up, O, k, k, I]
    style: Any  # [N, I]
    demod: Any  # [N, O]
    noise: Any  # [N, H * up, W * up]
    bias: Any  # [O]
    modulated: Any  # [N, H, W, I], float64


def _random_conv(
    rng: np.random.Generator, device: str, dtype: str, eight_bit: str | None, sizes: Sequence[int], up: int, ksize: int
) -> ConvOperands:
    """Operands for `sizes` N, I, O, H, W."""
    import torch

    from stylert.plugins.eight_bit import LARGEST

    n, i, o, h, w = sizes
    draw, torch_dtype = normal_tensors(rng, device), getattr(torch, dtype)
    x, style = draw(n, h, w, i).to(torch_dtype), draw(n, i).float()
    weight, spread = draw(up * up, o, ksize, ksize, i), (i * ksize**2) ** 0.5
    demod, noise, bias = draw(n, o).abs().float(), draw(n, h * up, w * up).float(), draw(o).float()
    if eight_bit is None:
        modulated = x.double() * style.double()[:, None, None]
        return ConvOperands(x, (weight / spread).to(torch_dtype), style, demod, noise, bias, modulated)
    eight_bit_dtype = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}[eight_bit]
    weight, style = (weight * 40).clamp(-127, 127).round().to(eight_bit_dtype), style * 30
    demod = demod / (1500 * spread)
    largest = LARGEST[eight_bit_dtype]
    scaled = (x.float() * style[:, None, None]).clamp(-largest, largest)
    modulated = (scaled.round() if eight_bit == "int8" else scaled.to(eight_bit_dtype)).double()
    return ConvOperands(x, weight, style, demod, noise, bias, modulated)


def _conv_sums(operands: ConvOperands, up: int) -> tuple[Any, Any]:
    """The layer before its activation in float64, `[N, O, H * up, W * up]`, and the same with the sizes of all terms."""
    names = ("modulated", "weight", "demod", "noise", "bias")
    factors = {name: getattr(operands, name).double() for name in names}
    sizes = {name: factor.abs() for name, factor in factors.items()}
    return _conv_float64(**factors, up=up), _conv_float64(**sizes, up=up)


def _conv_float64(modulated: Any, weight: Any, demod: Any, noise: Any, bias: Any, up: int) -> Any:
    import torch
    import torch.nn.functional as F

    n, h, w, _ = modulated.shape
    padded = F.pad(modulated.permute(0, 3, 1, 2), [weight.shape[2] // 2] * 4)
    v = torch.empty(n, weight.shape[1], h * up, w * up, dtype=torch.float64, device=modulated.device)
    for phase, taps in enumerate(weight.permute(0, 1, 4, 2, 3)):
        v[:, :, phase // up :: up, phase % up :: up] = F.conv2d(padded, taps)
    return v * demod[:, :, None, None] + noise[:, None] + bias[:, None, None]


def _leaky_relu(v: Any) -> Any:
    """With the gain of the activation, in float64."""
    import torch

    return 2**0.5 * torch.where(v > 0, v, 0.2 * v)


def _conv_precision(device: str, dtype: str, eight_bit: str | None) -> str:
    """The interpreter multiplies neither bfloat16 nor FP8."""
    return "ieee" if device == "cpu" and (dtype == "bfloat16" or eight_bit == "fp8") else "tf32x3"


def _conv_name(name: str, eight_bit: str | None) -> str:
    return name if eight_bit is None else f"{name} {eight_bit}"


def _conv(rng: np.random.Generator, device: str, dtype: str, eight_bit: str | None, limits: Limits) -> Check:
    """A layer with one program per tile, or with split sums."""
    from stylert.plugins.triton.tiles import Tile

    sizes = random_sizes(rng, limits.samples, limits.channels, limits.channels, limits.pixels, limits.pixels)
    up, ksize = int(rng.integers(1, 3)), int(rng.choice([1, 3]))
    operands = _random_conv(rng, device, dtype, eight_bit, sizes, up, ksize)
    tile = Tile(32, 32, 32, splits=int(rng.choice([1, 4])), group=int(rng.choice([1, 3])))
    name = "modulated_conv2d split" if tile.splits > 1 else "modulated_conv2d"
    return _checked_conv(operands, up, tile, device, dtype, eight_bit, name)


def _conv_of_long_sums(rng: np.random.Generator, device: str, dtype: str, eight_bit: str | None) -> Check:
    """A layer of 512 channels, whose sums have 4,608 terms, all of them positive.

    Such a sum outgrows its last terms. Tensor cores that keep few bits of a sum lose a part of each.
    """
    from stylert.plugins.triton.tiles import Tile

    o, side = (16, 3) if device == "cpu" else (128, 32)
    operands = _random_conv(rng, device, dtype, eight_bit, (1, 512, o, side, side), up=1, ksize=3)
    for factor in (operands.x, operands.style, operands.modulated):
        factor.abs_()
    # PyTorch has no absolute values of FP8.
    operands.weight.copy_(operands.weight.float().abs().to(operands.weight.dtype))
    large_tile = Tile(64, 64, 32) if dtype == "float32" else Tile(128, 128, 64, 8)
    tile = Tile(16, 16, 64) if device == "cpu" else large_tile
    check = _checked_conv(operands, 1, tile, device, dtype, eight_bit, "modulated_conv2d 4608 terms")
    return replace(check, tolerance=MAX_FP8_SUM_ERROR) if eight_bit == "fp8" else check


def _checked_conv(
    operands: ConvOperands, up: int, tile: Tile, device: str, dtype: str, eight_bit: str | None, name: str
) -> Check:
    import torch

    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.modulated_conv2d import modulated_conv2d_into, workspace_elements

    n, h, w, i = operands.x.shape
    o, splits = operands.weight.shape[1], tile.splits
    # Large numbers, so that a sum that is not written shows in the result.
    accumulator = torch.int32 if eight_bit == "int8" else torch.float32
    elements = workspace_elements(n, h * w, o, up * up, splits)
    workspace = torch.full((elements,), 2**30, dtype=accumulator, device=device) if elements else None
    y = torch.full((n, h * up, w * up, o), float("nan"), dtype=operands.x.dtype, device=device)
    modulated_conv2d_into(
        y, operands.x, operands.weight, operands.style, operands.demod, operands.noise, operands.bias,
        epilogue=Epilogue.of("lrelu"), tile=tile, precision=_conv_precision(device, dtype, eight_bit), workspace=workspace,
    )  # fmt: skip
    v, terms = _conv_sums(operands, up)
    error = relative_error(y.permute(0, 3, 1, 2), _leaky_relu(v), terms=terms)
    case = f"x {[n, h, w, i]} weight {list(operands.weight.shape)} {tile}"
    return Check(_conv_name(name, eight_bit), dtype, case, error, MAX_ERROR[dtype])


def _conv_rgb(rng: np.random.Generator, device: str, dtype: str, eight_bit: str | None, limits: Limits) -> Check:
    """A layer with torgb and the image of the block below in the same kernel."""
    import torch

    from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
    from stylert.plugins.reference.upfirdn2d import upsample2d
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.modulated_conv2d import modulated_conv2d_into
    from stylert.plugins.triton.tiles import Tile
    from stylert.plugins.triton.to_rgb import Rgb
    from stylert.runtime.backends.torch_network.launches import RGB_CHANNELS

    channels, half = min(limits.channels, RGB_CHANNELS), limits.pixels // 2
    n, i, o, half_h, half_w = random_sizes(rng, limits.samples, channels, channels, half, half)
    h, w = 2 * half_h, 2 * half_w
    operands = _random_conv(rng, device, dtype, eight_bit, (n, i, o, h, w), up=1, ksize=int(rng.choice([1, 3])))
    draw = normal_tensors(rng, device)
    weight, style, bias = (draw(3, o) / o**0.5).float(), draw(n, o).float(), draw(3).float()
    skip, f = draw(n, half_h, half_w, 3).float(), (draw(4, 4) / 4).float()
    rgb = Rgb(torch.full((n, h, w, 3), float("nan"), device=device), weight, style, bias, skip, f, clamp=2.0)
    # The tile spans all output channels.
    tile = Tile(32, max(16, 1 << (o - 1).bit_length()), 32, group=int(rng.choice([1, 3])))
    y = torch.full((n, h, w, o), float("nan"), dtype=operands.x.dtype, device=device)
    modulated_conv2d_into(
        y, operands.x, operands.weight, operands.style, operands.demod, operands.noise, operands.bias,
        epilogue=Epilogue.of("lrelu"), tile=tile, precision=_conv_precision(device, dtype, eight_bit), rgb=rgb,
    )  # fmt: skip
    v, terms = _conv_sums(operands, up=1)
    reference = _leaky_relu(v)
    activation_error = relative_error(y.permute(0, 3, 1, 2), reference, terms=terms)

    weight, style, bias = weight.double()[:, :, None, None], style.double(), bias.double()
    below = upsample2d(skip.double().permute(0, 3, 1, 2), f.double())
    image = modulated_conv2d(reference, weight, style, bias=bias, clamp=rgb.clamp) + below
    unclamped = modulated_conv2d(reference, weight, style, bias=bias) + below
    image_terms = modulated_conv2d(2**0.5 * terms, weight.abs(), style.abs(), bias=bias.abs())
    image_error = relative_error(rgb.image.permute(0, 3, 1, 2), image, unclamped, image_terms)
    name, error = _conv_name("modulated_conv2d rgb", eight_bit), worst([activation_error, image_error])
    return Check(name, dtype, f"x {[n, h, w, i]} weight {list(operands.weight.shape)} {tile}", error, MAX_ERROR[dtype])
