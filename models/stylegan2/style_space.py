"""Latents and styles in NumPy, from the weights of a generator: z to w, and w to the styles of all layers. No torch.

The styles of all layers behind each other are the StyleSpace of a network (Wu et al. 2021, "StyleSpace Analysis"). They stand in
the order of `GeneratorConfig.layers()`, torgb included. Config F at 1024 px has 9,088.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from stylert.core.errors import InputError, shown
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER, NORM_EPS, GeneratorConfig
from stylert.plugins.constants import ACTIVATION_GAIN, LRELU_SLOPE

#: Rows that pass through the mapping network at once, which bounds the memory.
BATCH = 4096


@dataclass(frozen=True)
class StyleMap:
    """The affine layers of all styles as one, `styles = weight @ w + bias`.

    Attributes:
        weight: float32 `[S, w_dim]`, with the gain of the equalised learning rate.
        bias: float32 `[S]`.
        latents: `[S]`, the index in ws of the latent that each style is computed from.
    """

    weight: np.ndarray
    bias: np.ndarray
    latents: np.ndarray


def style_slices(cfg: GeneratorConfig) -> dict[str, slice]:
    """The place of each layer's styles among those of all layers, by the layer's name, such as `b16.conv1`."""
    slices, first = {}, 0
    for spec in cfg.layers():
        slices[spec.name] = slice(first, first + spec.in_channels)
        first += spec.in_channels
    return slices


def style_map(cfg: GeneratorConfig, arrays: Mapping[str, np.ndarray]) -> StyleMap:
    """The affine layers of all styles, from the tensors of a checkpoint."""
    gain = np.float32(1 / np.sqrt(cfg.w_dim))
    layers = cfg.layers()
    return StyleMap(
        np.concatenate([arrays[f"synthesis.{spec.name}.affine.weight"] * gain for spec in layers]),
        np.concatenate([arrays[f"synthesis.{spec.name}.affine.bias"] for spec in layers]),
        np.concatenate([np.full(spec.in_channels, spec.ws_index) for spec in layers]),
    )


def style_index(cfg: GeneratorConfig, text: str) -> int:
    """The place of one style, such as `b16.conv1.42`: channel 42 of the input of that layer.

    Raises:
        InputError: The text has another form, or the network does not have the layer or the channel.
    """
    layer, _, channel = text.rpartition(".")
    place = style_slices(cfg).get(layer)
    if place is None or not (channel.isascii() and channel.isdigit() and len(channel) <= 6):
        raise InputError(f"a style is named by layer and channel, such as b4.conv1.0, not {shown(text)}")
    if int(channel) >= place.stop - place.start:
        raise InputError(f"{layer} has the styles 0 to {place.stop - place.start - 1}, not {int(channel)}")
    return place.start + int(channel)


def style_name(cfg: GeneratorConfig, index: int) -> str:
    """The inverse of `style_index`."""
    layer, place = next((name, place) for name, place in style_slices(cfg).items() if index < place.stop)
    return f"{layer}.{index - place.start}"


def map_z(
    cfg: GeneratorConfig, arrays: Mapping[str, np.ndarray], z: np.ndarray, labels: np.ndarray | None = None
) -> np.ndarray:
    """The mapping network, without truncation.

    Args:
        cfg: The configuration.
        arrays: The tensors of the checkpoint.
        z: float32 `[N, z_dim]`.
        labels: One-hot labels `[N, c_dim]`; None for a network without labels.

    Returns:
        w, float32 `[N, w_dim]`.

    Raises:
        InputError: The network takes labels and has none, or the other way round.
    """
    if (labels is not None) != (cfg.c_dim > 0):
        raise InputError("this network takes labels" if cfg.c_dim else "this network takes no labels")
    return np.concatenate(list(_mapped(cfg, arrays, z, labels)))


def _mapped(
    cfg: GeneratorConfig, arrays: Mapping[str, np.ndarray], z: np.ndarray, labels: np.ndarray | None
) -> Iterator[np.ndarray]:
    lr = MAPPING_LR_MULTIPLIER
    for i in range(0, len(z), BATCH):
        w = _normalised(z[i : i + BATCH].astype(np.float32))
        if labels is not None:
            weight = arrays["mapping.embed.weight"] / np.float32(np.sqrt(cfg.c_dim))
            embedded = labels[i : i + BATCH].astype(np.float32) @ weight.T + arrays["mapping.embed.bias"]
            w = np.concatenate([w, _normalised(embedded)], axis=1)
        for layer in range(cfg.mapping_layers):
            weight = arrays[f"mapping.fc{layer}.weight"]
            w = w @ (weight * np.float32(lr / np.sqrt(weight.shape[1]))).T + arrays[f"mapping.fc{layer}.bias"] * np.float32(lr)
            w = np.maximum(w, w * np.float32(LRELU_SLOPE)) * np.float32(ACTIVATION_GAIN["lrelu"])
        yield w


def _normalised(x: np.ndarray) -> np.ndarray:
    """Each row with unit mean square."""
    return x / np.sqrt(np.square(x).mean(1, keepdims=True) + np.float32(NORM_EPS))
