"""A writer of the checkpoints of rosinality's code, from stylert's own state dicts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch


def rosinality_generator(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An official state dict under rosinality's names and shapes."""
    out: dict[str, torch.Tensor] = {}
    kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 16
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "mapping":
            if parts[1] != "w_avg":
                out[f"style.{int(parts[1][2:]) + 1}.{parts[2]}"] = value
            continue
        level = int(math.log2(int(parts[1][1:]))) - 3  # -1 at 4 px
        rest = ".".join(parts[3:])
        if parts[2] == "const":
            out["input.input"] = value[None]
        elif parts[2] == "torgb":
            at = "to_rgb1" if level < 0 else f"to_rgbs.{level}"
            if rest == "bias":
                out[f"{at}.bias"] = value.reshape(1, -1, 1, 1)
            else:
                out[f"{at}.conv.{rest.replace('affine', 'modulation')}"] = value[None] if rest == "weight" else value
            if level >= 0:
                out[f"{at}.upsample.kernel"] = kernel
        elif parts[2].startswith("conv"):
            second = int(parts[2][4:])
            at = "conv1" if level < 0 else f"convs.{2 * level + second}"
            match rest:
                case "weight":
                    out[f"{at}.conv.weight"] = value[None]
                case "affine.weight" | "affine.bias":
                    out[f"{at}.conv.modulation.{parts[-1]}"] = value
                case "noise_strength":
                    out[f"{at}.noise.weight"] = value.reshape(1)
                case "noise_const":
                    out[f"noises.noise_{0 if level < 0 else 2 * level + 1 + second}"] = value[None, None]
                case "bias":
                    out[f"{at}.activate.bias"] = value
            if level >= 0 and second == 0:
                out[f"{at}.conv.blur.kernel"] = kernel
    return {k: v.detach().clone() for k, v in out.items()}


def rosinality_discriminator(state: dict[str, torch.Tensor], resolution: int) -> dict[str, torch.Tensor]:
    names = {"b4.conv.weight": "final_conv.0.weight", "b4.conv.bias": "final_conv.1.bias"}
    names |= {f"b4.{a}.{t}": f"final_linear.{i}.{t}" for i, a in enumerate(("fc", "out")) for t in ("weight", "bias")}
    names |= {f"b{resolution}.fromrgb.{t}": f"convs.0.{i}.{t}" for i, t in enumerate(("weight", "bias"))}
    out, at, res = {}, 1, resolution
    while res > 4:
        names |= {f"b{res}.conv0.{t}": f"convs.{at}.conv1.{i}.{t}" for i, t in enumerate(("weight", "bias"))}
        names |= {f"b{res}.conv1.{t}": f"convs.{at}.conv2.{i + 1}.{t}" for i, t in enumerate(("weight", "bias"))}
        names[f"b{res}.skip.weight"] = f"convs.{at}.skip.1.weight"
        out[f"convs.{at}.conv2.0.kernel"] = out[f"convs.{at}.skip.0.kernel"] = state[f"b{res}.resample_filter"].clone()
        at, res = at + 1, res // 2
    return out | {theirs: state[name].detach().clone() for name, theirs in names.items()}


def rosinality_file(path: Path, generator: Any, raw: Any = None, discriminator: Any = None, **options: Any) -> Path:
    """Write `{g, d, g_ema, latent_avg}`.

    `options` may hold `legacy` (the container), `average` (False leaves `latent_avg` out) and `extra` (further entries).
    """
    data: dict[str, Any] = {"g_ema": rosinality_generator(generator.state_dict())}
    if raw is not None:
        data["g"] = rosinality_generator(raw.state_dict())
    if discriminator is not None:
        data["d"] = rosinality_discriminator(discriminator.state_dict(), discriminator.cfg.resolution)
    if options.get("average", True):
        data["latent_avg"] = generator.mapping.w_avg.clone()
    torch.save(data | options.get("extra", {}), path, _use_new_zipfile_serialization=not options.get("legacy", False))
    return path
