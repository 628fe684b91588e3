"""Every kernel on this GPU against float64: `python -m stylert.benchmarks.kernels.parity`.

Random shapes, odd sizes and absences among them, with outputs full of NaN so that an element that is not written shows. Errors are
relative to the largest value of the reference. Beside the launchers it calls the PyTorch ops: their gradients, `opcheck`, and
a capture in a CUDA graph. Exit status 1 where anything is wrong; `--dry-run` runs tiny shapes in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stylert.benchmarks.kernels.command_line import device_for
from stylert.core.atomic import atomic_file, check_writable
from stylert.core.errors import InputError, StylertError

TOLERANCE = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
LARGE, TINY = (5, 150, 60), (2, 12, 4)  # samples, channels and pixels of a side, at most

Draw = Callable[..., Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 where a kernel is wrong, 2 where there is no GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m stylert.benchmarks.kernels.parity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--cases", type=int, default=6, help="of each kernel and dtype")
    parser.add_argument("--seed", type=int, help="default: a fresh one, which is printed")
    parser.add_argument("--json", type=Path, help="write every error here too")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, on the CPU")
    options = parser.parse_args(arguments)
    try:
        if options.cases < 1 or (options.seed or 0) < 0:
            raise InputError("give at least one case, and a seed that is not negative")
        check_writable(options.json)
        device = device_for(options)
    except StylertError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    import torch

    torch.backends.cudnn.allow_tf32 = False  # which the ops would follow
    seed = options.seed if options.seed is not None else int(np.random.SeedSequence().generate_state(1)[0])
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = [
        {"kernel": kernel, "dtype": dtype, "case": case, "error": error, "tolerance": bound, "ok": bool(error <= bound)}
        for _ in range(options.cases)
        for kernel, dtype, case, error, bound in _checks(rng, device)
    ]
    worst: dict[tuple[str, str], float] = {}
    for row in rows:
        key = row["kernel"], row["dtype"]
        worst[key] = float(np.fmax(worst.get(key, 0.0), row["error"] if np.isfinite(row["error"]) else np.inf))
    for (kernel, dtype), error in worst.items():
        print(f"{kernel:28} {dtype:9} worst error {error:.2e}")
    wrong = [row for row in rows if not row["ok"]]
    for row in wrong:
        print(
            f"WRONG {row['kernel']} {row['dtype']} {row['case']}: {row['error']:.3g} > {row['tolerance']:.3g}", file=sys.stderr
        )
    print(f"seed {seed}: {len(rows) - len(wrong)} of {len(rows)} right")
    if options.json is not None:
        # JSON has no NaN: an output that is not finite is an error of null.
        plain = [row | {"error": row["error"] if np.isfinite(row["error"]) else None} for row in rows]
        with atomic_file(options.json) as path:
            path.write_text(json.dumps({"schema": 1, "device": device, "seed": seed, "rows": plain}, indent=1) + "\n")
    return 1 if wrong else 0


def _checks(rng: np.random.Generator, device: str) -> Iterator[tuple[str, str, str, float, float]]:
    """Kernel, dtype, case, error and bound, one case of everything."""
    import torch

    limits = TINY if device == "cpu" else LARGE
    fp8 = device == "cpu" or torch.cuda.get_device_capability() >= (8, 9)
    for dtype, bound in TOLERANCE.items():
        for check in (_upfirdn2d, _bias_act, _conv, _conv_rgb):
            kernel, case, error = check(rng, device, dtype, None, limits)
            yield kernel, dtype, case, error, bound
    for eight_bit in ("int8", "fp8") if fp8 else ("int8",):
        for check in (_conv, _conv_rgb):
            kernel, case, error = check(rng, device, "float16", eight_bit, limits)
            yield f"{kernel} {eight_bit}", "float16", case, error, TOLERANCE["float16"]
    yield from _ops(rng, device)


def _error(y: Any, reference: Any, unclamped: Any = None, terms: Any = None) -> float:
    """Relative to the largest value, before a clamp; or to a fifth of the largest sum of `terms`' sizes, where terms cancel."""
    scale = (reference if unclamped is None else unclamped).abs().max().clamp(min=1e-3)
    if terms is not None:
        scale = scale.maximum(0.2 * terms.max())
    return float((y.double() - reference).abs().max() / scale)


def _drawing(rng: np.random.Generator, device: str) -> Draw:
    import torch

    return lambda *shape: torch.from_numpy(rng.standard_normal(shape)).to(device)


def _upfirdn2d(rng: np.random.Generator, device: str, dtype: str, _: None, limits: tuple[int, ...]) -> tuple[str, str, float]:
    import torch

    from stylert.plugins.reference.upfirdn2d import upfirdn2d
    from stylert.plugins.shapes import Resampling
    from stylert.plugins.triton.upfirdn2d import upfirdn2d_into

    draw = _drawing(rng, device)
    while True:
        up, down = (tuple(int(v) for v in rng.integers(1, 4 if rng.integers(2) else 3, 2)) for _ in range(2))
        spec = Resampling.of(up, down, [int(v) for v in rng.integers(-1, 5, 4)], bool(rng.integers(2)), 1.5)
        n, c, h, w = (int(rng.integers(1, limits[k] + 1)) for k in (0, 1, 2, 2))
        taps = tuple(int(v) for v in rng.integers(1, 6, 2))
        try:
            out = spec.output_size((h, w), (taps[0], taps[1]))
            break
        except ValueError:
            continue
    layout = [torch.contiguous_format, torch.channels_last][int(rng.integers(2))]
    x, f = draw(n, c, h, w).to(getattr(torch, dtype)).contiguous(memory_format=layout), draw(*taps).float()
    y = torch.full((n, c, *out), float("nan"), dtype=x.dtype, device=device).contiguous(memory_format=layout)
    upfirdn2d_into(y, x, f, spec)
    exact = upfirdn2d(x.double(), f.double(), spec.up, spec.down, spec.padding, spec.flip, spec.gain)
    return "upfirdn2d", f"{list(x.shape)} {spec}", _error(y, exact)


def _bias_act(rng: np.random.Generator, device: str, dtype: str, _: None, limits: tuple[int, ...]) -> tuple[str, str, float]:
    import torch

    from stylert.plugins.reference.bias_act import bias_act
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.bias_act import bias_act_gradient_into, bias_act_into

    draw = _drawing(rng, device)
    n, c, h, w = (int(rng.integers(1, limits[k] + 1)) for k in (0, 1, 2, 2))
    x, dy = (draw(n, c, h, w).to(getattr(torch, dtype)) for _ in range(2))
    b, tail = draw(c).float(), Epilogue.of("lrelu", clamp=1.0)
    exact = x.double().requires_grad_()
    reference = bias_act(exact, b.double(), activation="lrelu", clamp=1.0)
    y, dx = torch.full_like(x, float("nan")), torch.full_like(x, float("nan"))
    bias_act_into(y, x, b, tail, step=h * w)
    bias_act_gradient_into(dx, y, dy, tail)
    (expected,) = torch.autograd.grad(reference, exact, dy.double())
    # Where rounding decides on which side of a kink a value lies, its gradient may be either; it may also round to the clamp.
    v = (x.double() + b.double()[:, None, None]) * 2**0.5
    kink = torch.minimum(v.abs(), torch.minimum((v - 1).abs(), (0.2 * v + 1).abs())) < max(torch.finfo(x.dtype).eps, 1e-4)
    error = max(_error(y, reference.detach()), _error(torch.where(kink, expected.to(dx.dtype), dx), expected))
    return "bias_act", f"{list(x.shape)}", error


def _conv(
    rng: np.random.Generator, device: str, dtype: str, eight_bit: str | None, limits: tuple[int, ...], fused: bool = False
) -> tuple[str, str, float]:
    import torch

    from stylert.plugins.eight_bit import LARGEST
    from stylert.plugins.shapes import Epilogue
    from stylert.plugins.triton.modulated_conv2d import Rgb, modulated_conv2d_into, workspace_elements
    from stylert.plugins.triton.tiles import Tile

    draw, kind = _drawing(rng, device), getattr(torch, dtype)
    n, i, o, h, w = (int(rng.integers(1, limits[k] + 1)) for k in (0, 1, 1, 2, 2))
    up = 1 if fused else int(rng.integers(1, 3))
    ksize = int(rng.choice([1, 3]))
    x, style = draw(n, h, w, i).to(kind), draw(n, i).float()
    weight, spread = draw(up * up, o, ksize, ksize, i), (i * ksize**2) ** 0.5
    demod, noise, bias = draw(n, o).abs().float(), draw(n, h * up, w * up).float(), draw(o).float()
    if eight_bit:
        narrow = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}[eight_bit]
        weight, style = (weight * 40).clamp(-127, 127).round().to(narrow), style * 30
        demod = demod / (1500 * spread)
        modulated = (x.float() * style[:, None, None]).clamp(-LARGEST[narrow], LARGEST[narrow])
        decoded = (modulated.round() if eight_bit == "int8" else modulated.to(narrow)).double()
    else:
        weight = (weight / spread).to(kind)
        # Modulated activations are of the dtype too, as in the definition.
        decoded = x.double() * style.double()[:, None, None]
    splits = 1 if fused else int(rng.choice([1, 4]))
    wide = max(16, 1 << (o - 1).bit_length())
    tile = Tile(32, wide if fused else 32, 32, splits=splits, group=int(rng.choice([1, 3])))
    y = torch.full((n, h * up, w * up, o), float("nan"), dtype=kind, device=device)
    accumulator = torch.int32 if eight_bit == "int8" else torch.float32
    elements = workspace_elements(n, h * w, o, up * up, splits)
    work = torch.full((elements,), 2**30, dtype=accumulator, device=device) if elements else None
    rgb: Any = None
    if fused:
        h, w = 2 * h, 2 * w
        x = x.repeat(1, 2, 2, 1).contiguous()
        decoded, noise = decoded.repeat(1, 2, 2, 1), draw(n, h, w).float()
        y = torch.full((n, h, w, o), float("nan"), dtype=kind, device=device)
        image = torch.full((n, h, w, 3), float("nan"), device=device)
        skip, f = draw(n, h // 2, w // 2, 3).float(), (draw(4, 4) / 4).float()
        rgb = Rgb(image, (draw(3, o) / o**0.5).float(), draw(n, o).float(), draw(3).float(), skip, f, 2.0)
    precision = "ieee" if device == "cpu" and (dtype == "bfloat16" or eight_bit == "fp8") else "tf32x3"
    modulated_conv2d_into(
        y,
        x,
        weight,
        style,
        demod,
        noise,
        bias,
        tail=Epilogue.of("lrelu"),
        tile=tile,
        precision=precision,
        workspace=work,
        rgb=rgb,
    )

    def sums(decoded: Any, weight: Any, noise: Any, bias: Any) -> Any:
        padded = torch.nn.functional.pad(decoded.permute(0, 3, 1, 2), [ksize // 2] * 4)
        v = torch.empty(n, o, h * up, w * up, dtype=torch.float64, device=device)
        for phase, taps in enumerate(weight.permute(0, 1, 4, 2, 3)):
            v[:, :, phase // up :: up, phase % up :: up] = torch.nn.functional.conv2d(padded, taps)
        return v * demod.double()[:, :, None, None] + noise[:, None] + bias[:, None, None]

    operands = decoded, weight.double(), noise.double(), bias.double()
    v, terms = sums(*operands), sums(*(t.abs() for t in operands))
    exact = 2**0.5 * torch.where(v > 0, v, 0.2 * v)
    error = _error(y.permute(0, 3, 1, 2), exact, terms=terms)
    if rgb is not None:
        from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
        from stylert.plugins.reference.upfirdn2d import upsample2d

        below = upsample2d(rgb.skip.double().permute(0, 3, 1, 2), rgb.f.double())
        small = rgb.weight.double()[:, :, None, None], rgb.style.double()
        images = [modulated_conv2d(exact, *small, bias=rgb.bias.double(), clamp=c) + below for c in (2.0, None)]
        sizes = modulated_conv2d(2**0.5 * terms, small[0].abs(), small[1].abs(), bias=rgb.bias.double().abs())
        error = float(np.fmax(error, _error(rgb.image.permute(0, 3, 1, 2), images[0], images[1], sizes)))
    name = "modulated_conv2d rgb" if fused else "modulated_conv2d split" if splits > 1 else "modulated_conv2d"
    return name, f"x {[n, h, w, i]} weight {list(weight.shape)} {tile}", error


def _conv_rgb(
    rng: np.random.Generator, device: str, dtype: str, eight_bit: str | None, limits: tuple[int, ...]
) -> tuple[str, str, float]:
    return _conv(rng, device, dtype, eight_bit, (limits[0], min(limits[1], 128), limits[2] // 2), fused=True)


def _ops(rng: np.random.Generator, device: str) -> Iterator[tuple[str, str, str, float, float]]:
    """The PyTorch ops: gradients to second order beside those of the reference, opcheck, and a CUDA graph's replay."""
    import torch

    from stylert.plugins import ops
    from stylert.plugins.reference import modulated_conv2d as conv_reference
    from stylert.plugins.reference.upfirdn2d import setup_filter

    draw, f = _drawing(rng, device), setup_filter().to(device)
    for up in (1, 2):
        shapes = [(2, 5, 6, 4), (4, 5, 3, 3), (2, 5), (2, 4), (1, 1, 6 * up, 4 * up), (4,)]
        operands = [draw(*shape).float().requires_grad_() for shape in shapes]
        results = []
        for module, dtype in ((ops, torch.float32), (conv_reference, torch.float64)):
            mine = [t.detach().to(dtype).requires_grad_() for t in operands]
            y = module.modulated_conv2d(*mine, up=up, f=f.to(dtype), activation="lrelu")
            first = torch.autograd.grad(y.square().sum(), mine, create_graph=True)
            results.append([y, *first, *torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), mine)])
        # A second derivative sums thousands of products of four factors, each of which rounds in float32.
        error = max(_error(a.detach(), b.detach()) for a, b in zip(*results, strict=True))
        yield f"ops.modulated_conv2d up{up}", "float32", "second order", error, 1e-3
        if up == 2:
            call = (*operands, f, up, "lrelu", None, None)
            torch.library.opcheck(torch.ops.stylert.modulated_conv2d.default, call)
            yield f"ops.modulated_conv2d up{up}", "float32", "opcheck", 0.0, 0.0
        if device == "cuda":
            fixed = [t.detach() for t in operands]
            ops.modulated_conv2d(*fixed, up=up, f=f)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = ops.modulated_conv2d(*fixed, up=up, f=f)
            fixed[0].copy_(draw(*shapes[0]))
            graph.replay()
            exact = conv_reference.modulated_conv2d(*(t.double() for t in fixed), up=up, f=f.double())
            yield f"ops.modulated_conv2d up{up}", "float32", "CUDA graph", _error(y, exact), TOLERANCE["float32"]


if __name__ == "__main__":
    sys.exit(main())
