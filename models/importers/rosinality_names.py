"""The names and shapes of rosinality's tensors beside the official ones, for its reader and its writer."""

from __future__ import annotations

import re
from collections.abc import Mapping


def generator_names(blocks: int, mapping_layers: int) -> dict[str, str]:
    """Official names of the generator to rosinality's. `blocks` counts those above 4 px."""
    names = {"synthesis.b4.const": "input.input"}
    for i in range(mapping_layers):
        names |= _weight_and_bias(f"mapping.fc{i}", f"style.{i + 1}")
    # Official layer to rosinality's layer and the number of its noise.
    layers: dict[str, tuple[str, int | None]] = {"b4.conv1": ("conv1", 0), "b4.torgb": ("to_rgb1", None)}
    for i in range(blocks):
        res = 8 << i
        layers[f"b{res}.conv0"] = (f"convs.{2 * i}", 2 * i + 1)
        layers[f"b{res}.conv1"] = (f"convs.{2 * i + 1}", 2 * i + 2)
        layers[f"b{res}.torgb"] = (f"to_rgbs.{i}", None)
    for official_layer, (layer, noise) in layers.items():
        official = f"synthesis.{official_layer}"
        names[f"{official}.weight"] = f"{layer}.conv.weight"
        names |= _weight_and_bias(f"{official}.affine", f"{layer}.conv.modulation")
        if noise is None:
            names[f"{official}.bias"] = f"{layer}.bias"
        else:
            names[f"{official}.bias"] = f"{layer}.activate.bias"
            names[f"{official}.noise_strength"] = f"{layer}.noise.weight"
            names[f"{official}.noise_const"] = f"noises.noise_{noise}"
    return names


def stored_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in which rosinality keeps the tensor of this official name and shape: dimensions of one are added."""
    if name.endswith("noise_const"):
        return (1, 1, *shape)
    if name.endswith("torgb.bias"):
        return (1, *shape, 1, 1)
    if name.endswith(("const", "noise_strength")) or re.fullmatch(r"synthesis\.b\d+\.(conv[01]|torgb)\.weight", name):
        return (1, *shape)
    return shape


def discriminator_blocks(resolution: int, count: int) -> dict[int, str]:
    """Rosinality's block at each resolution above 4 px."""
    return {resolution >> i: f"convs.{i + 1}" for i in range(count)}


def discriminator_names(resolution: int, blocks: Mapping[int, str]) -> dict[str, str]:
    """Official names of the discriminator to rosinality's. `blocks` is that of `discriminator_blocks`."""
    names = {f"b{resolution}.fromrgb.weight": "convs.0.0.weight", f"b{resolution}.fromrgb.bias": "convs.0.1.bias"}
    for res, block in blocks.items():
        names |= {f"b{res}.conv0.weight": f"{block}.conv1.0.weight", f"b{res}.conv0.bias": f"{block}.conv1.1.bias"}
        names |= {f"b{res}.conv1.weight": f"{block}.conv2.1.weight", f"b{res}.conv1.bias": f"{block}.conv2.2.bias"}
        names[f"b{res}.skip.weight"] = f"{block}.skip.1.weight"
    names |= {"b4.conv.weight": "final_conv.0.weight", "b4.conv.bias": "final_conv.1.bias"}
    names |= _weight_and_bias("b4.fc", "final_linear.0")
    names |= _weight_and_bias("b4.out", "final_linear.1")
    return names


def _weight_and_bias(official: str, name: str) -> dict[str, str]:
    return {f"{official}.{tensor}": f"{name}.{tensor}" for tensor in ("weight", "bias")}
