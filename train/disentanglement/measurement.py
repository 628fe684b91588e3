"""Measures a generator: perceptual path length, separability of attributes in z and w, and the effect of directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stylert.core.errors import InputError
from stylert.core.progress import Progress
from stylert.models.features.perceptual import Distance
from stylert.models.stylegan2.networks import Generator
from stylert.train.disentanglement.attributes import Attribute, AttributeReader
from stylert.train.disentanglement.leakage import BATCH, Effect, LatentMove, measure_move, read
from stylert.train.disentanglement.separability import held_out_entropy
from stylert.train.metrics.perceptual_path import PathSampling, mean_without_outliers, path_distances
from stylert.train.sampling import labels_of_seeds

#: Name, space, and whether t is anywhere on the path, of each perceptual path length.
PATHS = (("z", "z", True), ("z, ends", "z", False), ("w", "w", True), ("w, ends", "w", False))


@dataclass(frozen=True)
class MeasureSettings:
    """How much is measured.

    Attributes:
        images: Random images, from which separability and the deviations of attributes come.
        paths: Random paths for each perceptual path length. 0 leaves it out.
        edits: How many of the random images are moved along each direction.
        strengths: The strengths of these moves.
        seed: Seed of all random numbers.
    """

    images: int
    paths: int
    edits: int
    strengths: tuple[float, ...]
    seed: int = 0


@dataclass(frozen=True)
class MeasuredAttribute:
    """An attribute of the random images.

    Attributes:
        attribute: The attribute.
        share: Share of the random images that have it.
        deviation: Standard deviation of its values.
        entropies: H(Y | X) by space, `z` and `w`, in nats. None for a reader that is not good
            enough, and for too few images with the attribute or without it.
    """

    attribute: Attribute
    share: float
    deviation: float
    entropies: dict[str, float | None]

    @property
    def counts(self) -> bool:
        """Whether sums and leakage count it: its reader is good, and images both have and lack it."""
        return self.attribute.readable and None not in self.entropies.values()


@dataclass(frozen=True)
class Measurement:
    """All that was measured.

    Attributes:
        path_lengths: By name of `PATHS`.
        attributes: The attributes.
        separability: exp of the sum of the entropies, by space. Empty without an attribute that counts.
        effects: The effect of each direction.
    """

    path_lengths: dict[str, float]
    attributes: tuple[MeasuredAttribute, ...]
    separability: dict[str, float]
    effects: tuple[Effect, ...]


def measure(
    generator: Generator,
    distance: Distance,
    readers: Sequence[AttributeReader],
    moves: Sequence[LatentMove],
    settings: MeasureSettings,
    progress: Progress | None = None,
) -> Measurement:
    """Measure a generator. The same seed gives the same numbers.

    Args:
        generator: The generator, on a CPU.
        distance: The perceptual distance.
        readers: Readers of the attributes.
        moves: The directions.
        settings: How much is measured.
        progress: Called with the name of each stage.

    Raises:
        InputError: The images of the generator are not finite.
    """
    path_lengths = {}
    for name, space, full in PATHS if settings.paths else ():
        sampling, stage = PathSampling(space, full), f"PPL {name}"
        values = path_distances(generator, distance, sampling, settings.paths, settings.seed, progress=progress, stage=stage)
        if not np.isfinite(values).all():
            raise InputError("images of this network are not finite numbers")
        path_lengths[name] = mean_without_outliers(values)
    count = max(settings.images if readers else 0, settings.edits if moves else 0)
    z, ws = random_latents(generator, count, settings.seed)
    read_values = _values(generator, ws, readers, progress)
    attributes = _attributes({"z": z, "w": ws[:, 0]}, read_values, readers, settings.seed, progress)
    counted = [a for a in attributes if a.counts]
    separability = {space: float(np.exp(sum(a.entropies[space] or 0.0 for a in counted))) for space in ("z", "w") if counted}
    deviations, effects = np.array([a.deviation for a in attributes]), []
    for i, move in enumerate(moves, 1):
        effects.append(measure_move(generator, ws[: settings.edits], move, settings.strengths, readers, deviations, distance))
        if progress is not None:
            progress("directions", i, len(moves))
    return Measurement(path_lengths, attributes, separability, tuple(effects))


@torch.no_grad()
def random_latents(generator: Generator, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """z `[count, z_dim]` and ws `[count, num_ws, w_dim]`, float32, of all classes in turn, without truncation."""
    cfg = generator.cfg
    z = np.random.default_rng(seed).standard_normal((count, cfg.z_dim), np.float32)
    ws = [np.empty((0, cfg.num_ws, cfg.w_dim), np.float32)]
    for begin in range(0, count, BATCH):
        rows = z[begin : begin + BATCH]
        c = labels_of_seeds(generator, range(begin, begin + len(rows)))
        ws.append(generator.mapping(torch.from_numpy(rows), c).numpy())
    return z, np.concatenate(ws)


@torch.no_grad()
def _values(generator: Generator, ws: np.ndarray, readers: Sequence[AttributeReader], progress: Progress | None) -> np.ndarray:
    """The attributes of the images of ws, `[N, A]`."""
    if not readers:
        return np.empty((len(ws), 0))
    values = []
    for begin in range(0, len(ws), BATCH):
        images = generator.synthesis(torch.from_numpy(ws[begin : begin + BATCH]), noise_mode="const")
        values.append(read(readers, images))
        if progress is not None:
            progress("random images", begin + len(images), len(ws))
    return np.concatenate(values)


def _attributes(
    latents: dict[str, np.ndarray],
    values: np.ndarray,
    readers: Sequence[AttributeReader],
    seed: int,
    progress: Progress | None,
) -> tuple[MeasuredAttribute, ...]:
    attributes = [attribute for reader in readers for attribute in reader.attributes]
    measured = []
    for i, (attribute, value) in enumerate(zip(attributes, values.T, strict=True), 1):
        threshold = 0.0 if attribute.share is None else float(np.quantile(value, 1 - attribute.share))
        margins = value - threshold
        entropies: dict[str, float | None] = dict.fromkeys(latents)
        if attribute.readable:
            entropies = {space: held_out_entropy(x.astype(np.float64), margins, seed) for space, x in latents.items()}
        measured.append(MeasuredAttribute(attribute, float((margins > 0).mean()), float(value.std()), entropies))
        if progress is not None:
            progress("separability", i, len(attributes))
    return tuple(measured)
