"""Checkpoints of StyleGAN1 in the layouts of other projects, with random tensors, and the images that their code makes.

The formulas are written in float64 NumPy from the layouts, and share no line with the package or its readers.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylert.models.stylegan1.config import GeneratorConfig
from tests.models.importers.pickle_writer import Call, PickleWriter, number_record
from tests.models.importers.tensorflow_files import tensorflow_network
from tests.models.stylegan2.float64_reference import correlate

Tensors = dict[str, np.ndarray]


def randn(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> np.ndarray:
    return (rng.standard_normal(shape) * scale).astype(np.float32)


# --- TensorFlow ------------------------------------------------------------------------------------------------------


def tensorflow_variables(cfg: GeneratorConfig, seed: int, lr: float = 0.01) -> Tensors:
    """Random variables of a network of the project stylegan, by their names under the generator."""
    rng, log2 = np.random.default_rng(seed), int(math.log2(cfg.resolution))
    out: Tensors = {"dlatent_avg": randn(rng, cfg.w_dim)}
    width = cfg.z_dim
    if cfg.c_dim:
        out["mapping/LabelConcat/weight"] = randn(rng, cfg.c_dim, cfg.z_dim)
        width += cfg.z_dim
    for i in range(cfg.mapping_layers):
        out[f"mapping/Dense{i}/weight"] = randn(rng, width, cfg.w_dim, scale=1 / lr)
        out[f"mapping/Dense{i}/bias"] = randn(rng, cfg.w_dim, scale=0.3 / lr)
        width = cfg.w_dim
    parts = [("4x4/Const", 0, 0, cfg.channels(4)), ("4x4/Conv", 3, cfg.channels(4), cfg.channels(4))]
    for level in range(3, log2 + 1):
        inner, outer = cfg.channels(2 ** (level - 1)), cfg.channels(2**level)
        size = f"{2**level}x{2**level}"
        parts += [(f"{size}/Conv0_up", 3, inner, outer), (f"{size}/Conv1", 3, outer, outer)]
    for i, (part, kernel, inner, outer) in enumerate(parts):
        name = f"synthesis/{part}"
        if kernel:
            out[f"{name}/weight"] = randn(rng, kernel, kernel, inner, outer)
        else:
            out[f"{name}/const"] = randn(rng, 1, outer, 4, 4)
        out[f"{name}/Noise/weight"] = randn(rng, outer, scale=0.3)
        out[f"{name}/bias"] = randn(rng, outer, scale=0.3)
        out[f"{name}/StyleMod/weight"] = randn(rng, cfg.w_dim, 2 * outer)
        out[f"{name}/StyleMod/bias"] = randn(rng, 2 * outer, scale=0.3)
        side = 2 ** (i // 2 + 2)
        out[f"synthesis/noise{i}"] = randn(rng, 1, 1, side, side)
    for lod in range(log2 - 1):
        channels = cfg.channels(2 ** (log2 - lod))
        out[f"synthesis/ToRGB_lod{lod}/weight"] = randn(rng, 1, 1, channels, cfg.img_channels)
        out[f"synthesis/ToRGB_lod{lod}/bias"] = randn(rng, cfg.img_channels, scale=0.3)
    return out


def tensorflow_arguments(cfg: GeneratorConfig, fused: object = "auto", lr: float = 0.01) -> dict[str, Any]:
    return {
        "resolution": cfg.resolution,
        "num_channels": cfg.img_channels,
        "label_size": cfg.c_dim,
        "latent_size": cfg.z_dim,
        "dlatent_size": cfg.w_dim,
        "fmap_base": cfg.channel_base // 2,
        "fmap_max": cfg.channel_max,
        "fmap_decay": cfg.channel_decay,
        "mapping_layers": cfg.mapping_layers,
        "mapping_fmaps": cfg.w_dim,
        "mapping_lrmul": lr,
        "fused_scale": fused,
        "blur_filter": [1, 2, 1],
        "truncation_psi": 0.7,
        "structure": "linear",
        "use_wscale": True,
    }


def tensorflow_file(path: Path, variables: Tensors, arguments: dict[str, Any], lod: float = 0.0, count: int = 3) -> Path:
    """Write `(G, D, Gs)` with the same generator twice, and a discriminator without variables."""

    def part(prefix: str) -> list[tuple[str, Any]]:
        return [(name.removeprefix(prefix), value) for name, value in variables.items() if name.startswith(prefix)]

    components = {
        "mapping": tensorflow_network("G_mapping", part("mapping/"), {}),
        "synthesis": tensorflow_network("G_synthesis", [("lod", number_record(lod)), *part("synthesis/")], {}),
    }
    own = [("lod", number_record(0.0)), ("dlatent_avg", variables["dlatent_avg"])]
    generator = tensorflow_network("G_style", own, arguments, components)
    networks: list[Call] = [generator, tensorflow_network("D_basic", [], {}), generator][-count:]
    path.write_bytes(PickleWriter(3).dumps(tuple(networks)))
    return path


def tensorflow_images(
    v: Tensors, cfg: GeneratorConfig, z: np.ndarray, c: np.ndarray | None, fused: object = "auto", lr: float = 0.01
) -> np.ndarray:
    """The images of the project stylegan with constant noise, `[N, C, R, R]`."""
    v = {name: value.astype(np.float64) for name, value in v.items()}
    w = z if c is None else np.concatenate([z, c @ v["mapping/LabelConcat/weight"]], 1)
    w = w / np.sqrt((w**2).mean(1, keepdims=True) + 1e-8)
    for i in range(cfg.mapping_layers):
        weight = v[f"mapping/Dense{i}/weight"]
        w = lrelu(w @ weight * (math.sqrt(2 / len(weight)) * lr) + v[f"mapping/Dense{i}/bias"] * lr)
    x, index = np.repeat(v["synthesis/4x4/Const/const"], len(w), 0), 0
    for level in range(2, int(math.log2(cfg.resolution)) + 1):
        for part in ("Const", "Conv") if level == 2 else ("Conv0_up", "Conv1"):
            name = f"synthesis/{2**level}x{2**level}/{part}"
            if part != "Const":
                weight = v[f"{name}/weight"] * math.sqrt(2 / v[f"{name}/weight"][..., 0].size)
                is_fused = 2**level >= 128 if fused == "auto" else fused
                x = convolved(x, weight, part == "Conv0_up", bool(is_fused))
            x = x + v[f"synthesis/noise{index}"] * v[f"{name}/Noise/weight"][:, None, None]
            x = lrelu(x + v[f"{name}/bias"][:, None, None])
            style = w @ v[f"{name}/StyleMod/weight"] / math.sqrt(cfg.w_dim) + v[f"{name}/StyleMod/bias"]
            x, index = styled(x, style.reshape(len(w), 2, -1, 1, 1), 1e-8, 1.0), index + 1
    weight = v["synthesis/ToRGB_lod0/weight"][0, 0]
    rgb = np.einsum("io,nihw->nohw", weight / math.sqrt(len(weight)), x)
    return rgb + v["synthesis/ToRGB_lod0/bias"][:, None, None]


def convolved(x: np.ndarray, weight: np.ndarray, up: bool, fused: bool) -> np.ndarray:
    """A 3x3 convolution with `[k, k, in, out]`. With `up` it doubles the size and blurs."""
    kernel = weight.transpose(3, 2, 0, 1)
    if not up:
        return correlate(padded(x), kernel)
    if not fused:
        return blurred(correlate(padded(x.repeat(2, 2).repeat(2, 3)), kernel))
    # Each input adds the kernel, whose four shifts are summed, to the output around its place.
    height, width = x.shape[2:]
    wide = np.pad(weight, [(1, 1), (1, 1), (0, 0), (0, 0)])
    wide = wide[1:, 1:] + wide[:-1, 1:] + wide[1:, :-1] + wide[:-1, :-1]
    y = np.zeros((len(x), weight.shape[3], 2 * height + 2, 2 * width + 2))
    for dy in range(4):
        for dx in range(4):
            y[:, :, dy : dy + 2 * height : 2, dx : dx + 2 * width : 2] += np.einsum("nihw,io->nohw", x, wide[dy, dx])
    return blurred(y[:, :, 1:-1, 1:-1])


def styled(x: np.ndarray, style: np.ndarray, eps: float, added: float) -> np.ndarray:
    """Instance norm, and a style `[N, 2, C, 1, 1]` whose factors have `added` added to them."""
    x = (x - x.mean((2, 3), keepdims=True)) / np.sqrt(x.var((2, 3), keepdims=True) + eps)
    return x * (style[:, 0] + added) + style[:, 1]


def blurred(x: np.ndarray) -> np.ndarray:
    x = padded(x)
    x = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    return (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4


def padded(x: np.ndarray) -> np.ndarray:
    return np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])


def lrelu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.2 * x)


# --- rosinality ------------------------------------------------------------------------------------------------------


def rosinality_state(channels: list[int], fused: int, z_dim: int, depth: int, seed: int, trained: int | None = None) -> Tensors:
    """A random state dict of a network with these channels from 4 px up, of which the first `trained` blocks were trained.

    Blocks from number `fused` on have transposed convolutions.
    """
    rng, out = np.random.default_rng(seed), {}
    for i in range(depth):
        out[f"style.{2 * i + 1}.linear.weight_orig"] = randn(rng, z_dim, z_dim)
        out[f"style.{2 * i + 1}.linear.bias"] = randn(rng, z_dim, scale=0.3)
    for i, outer in enumerate(channels):
        inner, block = channels[max(i - 1, 0)], f"generator.progression.{i}"
        scale = 0.3 if trained is None or i < trained else 0.0
        kernel = np.tile(np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16, (outer, 1, 1, 1))
        if i == 0:
            out[f"{block}.conv1.input"] = randn(rng, 1, outer, 4, 4)
        else:
            number = "1" if i >= fused else "2"  # of the blur
            if i >= fused:
                out[f"{block}.conv1.0.weight"] = randn(rng, inner, outer, 3, 3, scale=4)
                out[f"{block}.conv1.0.bias"] = randn(rng, outer, scale=scale)
            else:
                out[f"{block}.conv1.1.conv.weight_orig"] = randn(rng, outer, inner, 3, 3)
                out[f"{block}.conv1.1.conv.bias"] = randn(rng, outer, scale=scale)
            out |= {f"{block}.conv1.{number}.{name}": kernel for name in ("weight", "weight_flip")}
        out[f"{block}.conv2.conv.weight_orig"] = randn(rng, outer, outer, 3, 3)
        out[f"{block}.conv2.conv.bias"] = randn(rng, outer, scale=scale)
        for k in (1, 2):
            out[f"{block}.noise{k}.weight_orig"] = randn(rng, 1, outer, 1, 1, scale=scale)
            out[f"{block}.adain{k}.style.linear.weight_orig"] = randn(rng, 2 * outer, z_dim)
            out[f"{block}.adain{k}.style.linear.bias"] = randn(rng, 2 * outer, scale=0.3) + np.float32(0.5)
        out[f"generator.to_rgb.{i}.conv.weight_orig"] = randn(rng, 3, outer, 1, 1)
        out[f"generator.to_rgb.{i}.conv.bias"] = randn(rng, 3, scale=scale)
    return out


def rosinality_images(s: Tensors, z: np.ndarray, noise: list[np.ndarray]) -> np.ndarray:
    """The images of rosinality's code, with one map of noise for each resolution."""
    s = {name: value.astype(np.float64) for name, value in s.items()}
    w = z / np.sqrt((z**2).mean(1, keepdims=True) + 1e-8)
    i = 1
    while (weight := s.get(f"style.{i}.linear.weight_orig")) is not None:
        w, i = lrelu(w @ weight.T * math.sqrt(2 / weight.shape[1]) + s[f"style.{i}.linear.bias"]), i + 2
    x = np.repeat(s["generator.progression.0.conv1.input"], len(w), 0)
    for i, plane in enumerate(noise):
        block = f"generator.progression.{i}"
        for k in (1, 2):
            layer = f"{block}.conv{k}"
            if k == 2 or i > 0:
                is_fused = k == 1 and f"{layer}.0.weight" in s
                part = f"{layer}.0" if is_fused else f"{layer}.1.conv" if k == 1 else f"{layer}.conv"
                weight = s[f"{part}.weight" if is_fused else f"{part}.weight_orig"]
                fan_in = weight.shape[0 if is_fused else 1] * 9
                axes = (2, 3, 0, 1) if is_fused else (2, 3, 1, 0)
                weight = weight.transpose(axes) * math.sqrt(2 / fan_in) / (4 if is_fused else 1)
                # The bias comes in front of the blur, as one more input that is 1 everywhere.
                x = convolved_with_bias(x, weight, s[f"{part}.bias"], k == 1, is_fused)
            strength = s[f"{block}.noise{k}.weight_orig"]
            x = lrelu(x + plane * strength * math.sqrt(2 / strength.size))
            linear = f"{block}.adain{k}.style.linear"
            weight = s[f"{linear}.weight_orig"]
            style = w @ weight.T * math.sqrt(2 / weight.shape[1]) + s[f"{linear}.bias"]
            x = styled(x, style.reshape(len(w), 2, -1, 1, 1), 1e-5, 0.0)
    conv = f"generator.to_rgb.{len(noise) - 1}.conv"
    weight = s[f"{conv}.weight_orig"][:, :, 0, 0]
    return np.einsum("oi,nihw->nohw", weight * math.sqrt(2 / weight.shape[1]), x) + s[f"{conv}.bias"][:, None, None]


def convolved_with_bias(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, up: bool, fused: bool) -> np.ndarray:
    y = convolved(x, weight, up, fused)
    ones = np.ones((1, 1, *y.shape[2:]))
    return y + bias[:, None, None] * (blurred(ones) if up else ones)


# --- lernapparat -----------------------------------------------------------------------------------------------------


def lernapparat_state(v: Tensors) -> Tensors:
    """The variables of TensorFlow under the names and layouts of lernapparat's port, without noise and average."""
    out = {}
    for name, value in v.items():
        head, *parts = name.lower().split("/")
        if head == "dlatent_avg" or (parts[0].startswith(("noise", "torgb_lod")) and parts[0] != "torgb_lod0"):
            continue
        if head == "mapping":
            out[f"g_mapping.{parts[0]}.{parts[1]}"] = value.T if value.ndim == 2 else value
            continue
        if parts[0] == "torgb_lod0":
            key = f"g_synthesis.torgb.{parts[1]}"
        else:
            size, layer, *rest = parts
            epilogue = "epi1" if layer in ("const", "conv0_up") else "epi2"
            inner = {"noise": f"{epilogue}.top_epi.noise", "stylemod": f"{epilogue}.style_mod.lin"}.get(rest[0])
            if inner is not None:
                key = f"g_synthesis.blocks.{size}.{inner}.{rest[1]}"
            elif layer == "const":
                key = f"g_synthesis.blocks.{size}.{rest[0]}"
            else:
                key = f"g_synthesis.blocks.{size}.{layer}.{rest[0]}"
            if layer == "conv0_up":
                out[f"g_synthesis.blocks.{size}.conv0_up.intermediate.kernel"] = (
                    np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32)[None, None] / 16
                )
        if value.ndim == 4 and not key.endswith("const"):
            value = value.transpose(3, 2, 0, 1)
        out[key] = value.T if value.ndim == 2 else value
    return out


def torch_file(path: Path, content: dict[str, Any]) -> Path:
    """Write a state dict, or entries of which some are state dicts, by `torch.save`."""

    def tensors(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: tensors(part) for key, part in value.items()}
        return torch.from_numpy(np.array(value, order="C")) if isinstance(value, np.ndarray) else value

    torch.save(tensors(content), path)
    return path
