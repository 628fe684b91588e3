"""Checks every GPU kernel against a float64 reference on random shapes: `python -m stylert.benchmarks.kernels.parity`.

Shapes are random, with odd sizes and absent operands among them. Outputs are full of NaN before each launch, so an element that
is not written shows. Errors are relative to the largest value of the reference. The PyTorch ops are checked too: gradients,
`opcheck`, and a capture in a CUDA graph.

The exit status is 1 where anything is wrong. `--dry-run` checks tiny shapes in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stylert.benchmarks.kernels.device import select_device, supports_fp8
from stylert.core.errors import InputError, StylertError
from stylert.core.files.atomic import atomic_file, check_writable

if TYPE_CHECKING:
    from stylert.plugins.triton.tiles import Tile

#: Largest relative error of a kernel, by dtype of its activations.
MAX_ERROR = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}

#: The same for long sums of FP8. It is between the rounding of the result and the error of a sum that is kept in 14 bits.
MAX_FP8_SUM_ERROR = 1e-3


@dataclass(frozen=True)
class Limits:
    """The largest random shapes."""

    samples: int
    channels: int
    pixels: int  # of a side


GPU_LIMITS = Limits(5, 150, 60)
INTERPRETER_LIMITS = Limits(2, 12, 4)


@dataclass(frozen=True)
class Check:
    """The error of one kernel on one random case."""

    kernel: str
    dtype: str
    case: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """False for NaN too."""
        return bool(self.error <= self.tolerance)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 where a kernel is wrong, 2 on a wrong argument or where there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m stylert.benchmarks.kernels.parity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--cases", type=int, default=6, help="random cases of each kernel and dtype")
    parser.add_argument("--seed", type=int, help="default: a fresh seed, which is printed")
    parser.add_argument("--json", type=Path, help="write every error to this file too")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, on the CPU")
    options = parser.parse_args(arguments)
    try:
        if options.cases < 1 or (options.seed or 0) < 0:
            raise InputError("give at least one case, and a seed that is not negative")
        check_writable(options.json)
        device = select_device(options)
    except StylertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    import torch

    torch.backends.cudnn.allow_tf32 = False  # the PyTorch ops compute float32 by it
    seed = options.seed if options.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
    rng = np.random.default_rng(seed)
    checks = [check for _ in range(options.cases) for check in _checks(rng, device)]
    checks += _long_sums(rng, device)
    _print_summary(checks, seed)
    if options.json is not None:
        _write_json(options.json, checks, seed, device)
    return 0 if all(check.ok for check in checks) else 1


def _print_summary(checks: Sequence[Check], seed: int) -> None:
    worst: dict[tuple[str, str], float] = {}
    for check in checks:
        key = check.kernel, check.dtype
        worst[key] = max(worst.get(key, 0.0), check.error if np.isfinite(check.error) else np.inf)
    for (kernel, dtype), error in worst.items():
        print(f"{kernel:28} {dtype:9} worst error {error:.2e}")
    wrong = [check for check in checks if not check.ok]
    for check in wrong:
        print(f"WRONG {check.kernel} {check.dtype} {check.case}: {check.error:.3g} > {check.tolerance:.3g}", file=sys.stderr)
    print(f"seed {seed}: {len(checks) - len(wrong)} of {len(checks)} right")


def _write_json(path: Path, checks: Sequence[Check], seed: int, device: str) -> None:
    rows = [
        {
            "kernel": check.kernel,
            "dtype": check.dtype,
            "case": check.case,
            "error": check.error if np.isfinite(check.error) else None,  # JSON has no NaN
            "tolerance": check.tolerance,
            "ok": check.ok,
        }
        for check in checks
    ]
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"schema": 1, "device": device, "seed": seed, "rows": rows}, indent=1) + "\n")


def _checks(rng: np.random.Generator, device: str) -> Iterator[Check]:
    """One random case of every kernel in every dtype, and of the PyTorch ops."""
    limits = INTERPRETER_LIMITS if device == "cpu" else GPU_LIMITS
    for dtype in MAX_ERROR:
        yield _upfirdn2d(rng, device, dtype, limits)
        yield _bias_act(rng, device, dtype, limits)
        yield _conv(rng, device, dtype, None, limits)
        yield _conv_rgb(rng, device, dtype, None, limits)
    for eight_bit in ("int8", "fp8") if supports_fp8(device) else ("int8",):
        yield _conv(rng, device, "float16", eight_bit, limits)
        yield _conv_rgb(rng, device, "float16", eight_bit, limits)
    yield from _ops(rng, device)


def _long_sums(rng: np.random.Generator, device: str) -> Iterator[Check]:
    """The longest sums of a network, in every dtype."""
    for dtype in MAX_ERROR:
        yield _conv_of_long_sums(rng, device, dtype, None)
    for eight_bit in ("int8", "fp8") if supports_fp8(device) else ("int8",):
        yield _conv_of_long_sums(rng, device, "float16", eight_bit)


def _relative_error(y: Any, reference: Any, unclamped: Any = None, terms: Any = None) -> float:
    """The largest error of `y` relative to the largest value of `reference`.

    Args:
        y: A result.
        reference: float64, of the same shape.
        unclamped: The reference before its clamp, which then sets the scale.
        terms: Sums of the sizes of the terms. If terms cancel, a fifth of the largest sum sets the scale.
    """
    scale = (reference if unclamped is None else unclamped).abs().max().clamp(min=1e-3)
    if terms is not None:
        scale = scale.maximum(0.2 * terms.max())
    return float((y.double() - reference).abs().max() / scale)


def _worst(errors: Sequence[float]) -> float:
    """The largest error; NaN where one is NaN."""
    return float(np.max(errors))


def _normal_tensors(rng: np.random.Generator, device: str) -> Callable[..., Any]:
    """A function from a shape to a float64 tensor of normal numbers."""
    import torch

    return lambda *shape: torch.from_numpy(rng.standard_normal(shape)).to(device)


def _upfirdn2d(rng: np.random.Generator, device: str, dtype: str, limits: Limits) -> Check:
    import torch

    from stylert.plugins.reference.upfirdn2d import upfirdn2d
    from stylert.plugins.shapes import Resampling
    from stylert.plugins.triton.upfirdn2d import upfirdn2d_into

    draw = _normal_tensors(rng, device)
    while True:
        up, down = (tuple(int(v) for v in rng.integers(1, 4 if rng.integers(2) else 3, 2)) for _ in range(2))
        spec = Resampling.of(up, down, [int(v) for v in rng.integers(-1, 5, 4)], bool(rng.integers(2)), 1.5)
        n, c, h, w = _random_sizes(rng, limits.samples, limits.channels, limits.pixels, limits.pixels)
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
    return Check("upfirdn2d", dtype, f"{list(x.shape)} {spec}", _relative_error(y, reference), MAX_ERROR[dtype])


def _bias_act(rng: np.random.Generator, device: str, dtype: str, limits: Limits) -> Check:
    """Forward and backward."""
    import torch

    from stylert.plugins.reference.bias_act import bias_act
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.bias_act import bias_act_gradient_into, bias_act_into

    draw = _normal_tensors(rng, device)
    n, c, h, w = _random_sizes(rng, limits.samples, limits.channels, limits.pixels, limits.pixels)
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
    error = _worst([_relative_error(y, reference.detach()), _relative_error(dx, expected_dx)])
    return Check("bias_act", dtype, f"{list(x.shape)}", error, MAX_ERROR[dtype])


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
    draw, torch_dtype = _normal_tensors(rng, device), getattr(torch, dtype)
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

    sizes = _random_sizes(rng, limits.samples, limits.channels, limits.channels, limits.pixels, limits.pixels)
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
    error = _relative_error(y.permute(0, 3, 1, 2), _leaky_relu(v), terms=terms)
    case = f"x {[n, h, w, i]} weight {list(operands.weight.shape)} {tile}"
    return Check(_conv_name(name, eight_bit), dtype, case, error, MAX_ERROR[dtype])


def _conv_rgb(rng: np.random.Generator, device: str, dtype: str, eight_bit: str | None, limits: Limits) -> Check:
    """A layer with torgb and the image of the block below in the same kernel."""
    import torch

    from stylert.benchmarks.kernels.synthesis import RGB_CHANNELS
    from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
    from stylert.plugins.reference.upfirdn2d import upsample2d
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.modulated_conv2d import modulated_conv2d_into
    from stylert.plugins.triton.tiles import Tile
    from stylert.plugins.triton.to_rgb import Rgb

    channels, half = min(limits.channels, RGB_CHANNELS), limits.pixels // 2
    n, i, o, half_h, half_w = _random_sizes(rng, limits.samples, channels, channels, half, half)
    h, w = 2 * half_h, 2 * half_w
    operands = _random_conv(rng, device, dtype, eight_bit, (n, i, o, h, w), up=1, ksize=int(rng.choice([1, 3])))
    draw = _normal_tensors(rng, device)
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
    activation_error = _relative_error(y.permute(0, 3, 1, 2), reference, terms=terms)

    weight, style, bias = weight.double()[:, :, None, None], style.double(), bias.double()
    below = upsample2d(skip.double().permute(0, 3, 1, 2), f.double())
    image = modulated_conv2d(reference, weight, style, bias=bias, clamp=rgb.clamp) + below
    unclamped = modulated_conv2d(reference, weight, style, bias=bias) + below
    image_terms = modulated_conv2d(2**0.5 * terms, weight.abs(), style.abs(), bias=bias.abs())
    image_error = _relative_error(rgb.image.permute(0, 3, 1, 2), image, unclamped, image_terms)
    name, error = _conv_name("modulated_conv2d rgb", eight_bit), _worst([activation_error, image_error])
    return Check(name, dtype, f"x {[n, h, w, i]} weight {list(operands.weight.shape)} {tile}", error, MAX_ERROR[dtype])


def _random_sizes(rng: np.random.Generator, *limits: int) -> tuple[int, ...]:
    """A number from 1 to each limit."""
    return tuple(int(rng.integers(1, limit + 1)) for limit in limits)


def _ops(rng: np.random.Generator, device: str) -> Iterator[Check]:
    """The PyTorch ops: gradients to second order against the reference, opcheck, and the replay of a CUDA graph."""
    import torch

    from stylert.plugins import ops
    from stylert.plugins.reference import modulated_conv2d as conv_reference
    from stylert.plugins.reference.upfirdn2d import setup_filter

    draw, f = _normal_tensors(rng, device), setup_filter().to(device)
    for up in (1, 2):
        name = f"ops.modulated_conv2d up{up}"
        shapes = [(2, 5, 6, 4), (4, 5, 3, 3), (2, 5), (2, 4), (1, 1, 6 * up, 4 * up), (4,)]
        operands = [draw(*shape).float().requires_grad_() for shape in shapes]
        results = [
            _value_and_gradients(module.modulated_conv2d, operands, dtype, up, f)
            for module, dtype in ((ops, torch.float32), (conv_reference, torch.float64))
        ]
        # A second derivative sums thousands of products of four factors, each of which rounds in float32.
        error = _worst([_relative_error(a.detach(), b.detach()) for a, b in zip(*results, strict=True)])
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
            yield Check(name, "float32", "CUDA graph", _relative_error(y, reference), MAX_ERROR["float32"])


def _value_and_gradients(operator: Callable[..., Any], operands: Sequence[Any], dtype: Any, up: int, f: Any) -> list[Any]:
    """The result of a layer, and its first and second derivatives by every operand."""
    import torch

    inputs = [operand.detach().to(dtype).requires_grad_() for operand in operands]
    y = operator(*inputs, up=up, f=f.to(dtype), activation="lrelu")
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(torch.stack([gradient.square().sum() for gradient in first]).sum(), inputs)
    return [y, *first, *second]


if __name__ == "__main__":
    sys.exit(main())
