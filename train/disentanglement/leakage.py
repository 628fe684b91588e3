"""The effect of a direction: on the attribute that it is meant for, on all others, and on the image as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from stylert.core.images.grids import as_uint8
from stylert.models.features.perceptual import Distance
from stylert.models.stylegan2.networks import Generator
from stylert.models.stylegan2.style_space import style_slices
from stylert.train.disentanglement.attributes import AttributeReader

BATCH = 16
#: A direction that changes its target by less than this, in deviations per strength, has no leakage relative to it.
LEAST_CHANGE = 0.02


@dataclass(frozen=True)
class LatentMove:
    """A direction, as a step of strength 1.

    Attributes:
        name: Name of the direction.
        ws: Added to each latent, float32 `[num_ws, w_dim]`.
        styles: Added to the styles of all layers, float32 `[S]`, or None.
        target: The attribute that the direction is meant for, or None.
    """

    name: str
    ws: np.ndarray
    styles: np.ndarray | None = None
    target: str | None = None


@dataclass(frozen=True)
class Effect:
    """The effect of a direction on images, which are the same at each strength. S strengths, A attributes.

    Attributes:
        move: The direction.
        strengths: `[S]`, in ascending order, 0 among them.
        changes: Mean change of each attribute against strength 0, in deviations of the attribute, `[S, A]`.
        slopes: Change per strength: the line through 0 that is nearest to `changes`, `[A]`.
        sizes: Mean of the absolute change per strength, `[A]`. It also sees a change that differs in sense from image to image.
        distances: Mean perceptual distance to the images at strength 0, `[S]`.
        pictures: The first images at each strength, uint8 `[S, P, R, R, C]`.
    """

    move: LatentMove
    strengths: np.ndarray
    changes: np.ndarray
    slopes: np.ndarray
    sizes: np.ndarray
    distances: np.ndarray
    pictures: np.ndarray


def measure_move(
    generator: Generator,
    ws: np.ndarray,
    move: LatentMove,
    strengths: Sequence[float],
    readers: Sequence[AttributeReader],
    deviations: np.ndarray,
    distance: Distance,
    shown: int = 2,
) -> Effect:
    """Move images along a direction, and read their attributes.

    Args:
        generator: The generator, on a CPU.
        ws: Latents of the images, float32 `[N, num_ws, w_dim]`.
        move: The direction.
        strengths: The strengths, one of them not 0. 0 is added where it is missing.
        readers: Readers of the attributes.
        deviations: Standard deviation of each attribute over random images, `[A]`.
        distance: The perceptual distance.
        shown: The number P of images to keep.
    """
    ordered = np.array(sorted({0.0, *strengths}))
    values, distances, pictures = [], [], []
    for begin in range(0, len(ws), BATCH):
        batch = ws[begin : begin + BATCH]
        images = [moved_images(generator, batch, move, strength) for strength in ordered]
        still = images[int(np.nonzero(ordered == 0)[0][0])]
        values.append(np.stack([read(readers, image) for image in images]))
        with torch.no_grad():
            rgb = [image.expand(-1, 3, -1, -1) for image in images]
            distances.append(np.stack([distance(still.expand(-1, 3, -1, -1), x).double().numpy() for x in rgb]))
        if begin == 0:
            pictures = [as_uint8(image[:shown].numpy()) for image in images]
    read_values = np.concatenate(values, axis=1)  # [S, N, A]
    change = (read_values - read_values[ordered == 0]) / np.where(deviations > 0, deviations, 1)
    changes = change.mean(1)
    slopes = ordered @ changes / (ordered @ ordered)
    moved = ordered != 0
    sizes = (np.abs(change[moved]).mean(1) / np.abs(ordered[moved])[:, None]).mean(0)
    mean_distances = np.concatenate(distances, axis=1).mean(1)
    return Effect(move, ordered, changes, slopes, sizes, mean_distances, np.stack(pictures))


def read(readers: Sequence[AttributeReader], images: Tensor) -> np.ndarray:
    """The attributes of all readers, `[N, A]`, of float images `[N, C, R, R]`. They are read from 8 bits, as a picture has."""
    pixels = as_uint8(images.numpy())
    return np.concatenate([np.empty((len(pixels), 0)), *(reader(pixels) for reader in readers)], axis=1)


def leakage(effect: Effect, target: int, others: np.ndarray) -> float | None:
    """The mean size of the changes of other attributes, relative to the change of the target.

    The target counts by its slope: a change that is not the same for all images is no progress. The others count by size: a change
    is leakage in either sense.

    Args:
        effect: The effect of a direction.
        target: Index of the attribute that the direction is meant for.
        others: Whether each attribute counts, boolean `[A]`. The target does not count as one of the others.

    Returns:
        0 if the direction changes nothing else, and 1 if it changes the others as much. None without another attribute, or if
        the direction does not change its target.
    """
    counted = others.copy()
    counted[target] = False
    change = abs(float(effect.slopes[target]))
    if not counted.any() or change < LEAST_CHANGE:
        return None
    return float(effect.sizes[counted].mean()) / change


@torch.no_grad()
def moved_images(generator: Generator, ws: np.ndarray, move: LatentMove, strength: float) -> Tensor:
    """Images float32 `[N, C, R, R]` of ws `[N, num_ws, w_dim]` after a move, with constant noise."""
    with _style_offsets(generator, None if move.styles is None else move.styles * np.float32(strength)):
        moved = torch.from_numpy(ws + np.float32(strength) * move.ws)
        images: Tensor = generator.synthesis(moved, noise_mode="const")
    return images


@contextmanager
def _style_offsets(generator: Generator, offsets: np.ndarray | None) -> Iterator[None]:
    """Add offsets `[S]` to the styles of all layers while the context lasts: to the biases of the affine layers."""
    biases = []
    if offsets is not None:
        for name, place in style_slices(generator.cfg).items():
            bias = cast(Any, generator.synthesis.get_submodule(name)).affine.bias
            biases.append((bias, bias.detach().clone(), torch.from_numpy(offsets[place])))
    try:
        for bias, before, offset in biases:
            bias.copy_(before + offset)
        yield
    finally:
        for bias, before, _ in biases:
            bias.copy_(before)
