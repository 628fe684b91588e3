"""Metrics of a generator by name, as a command or a training run asks for them: `fd5k`, `fid50k`, `ppl_w_end`, `modes`.

A name may end in the number of generated images; as many real ones are compared, or all that there are. `fd` is the offline
stand-in for `fid`. `kid` and `pr` are computed on Inception where its weights are given, on the stand-in where not, and the
result's name says on which.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from stylert.core.errors import InputError
from stylert.models.features.extractors import EffNetLite0, Extractor, Inception
from stylert.models.features.perceptual import Distance, EffNetLite0Distance, Lpips
from stylert.models.stylegan2.networks import Generator
from stylert.train.data.dataset import ImageDataset
from stylert.train.metrics.coverage import Coverage, PartReader, coverage, read_parts
from stylert.train.metrics.distances import (
    NEIGHBOURS,
    SPLITS,
    frechet_distance,
    inception_score,
    kernel_distance,
    precision_recall,
)
from stylert.train.metrics.features import generated_features, generated_images, generated_z, labels_in_turn, real_features
from stylert.train.metrics.perceptual_path import Paths, mean_within, path_distances
from stylert.train.metrics.separability import linear_separability

FEATURE_METRICS = ("fd", "fid", "kid", "pr", "is")
PATH_METRICS = tuple(f"ppl_{space}{end}{crop}" for space in "zw" for end in ("", "_end") for crop in ("", "_crop"))
PART_METRICS = ("modes", "ls_z", "ls_w")
METRICS = (*FEATURE_METRICS, *PATH_METRICS, *PART_METRICS)
#: One number each, the lower the better: what a training run can choose its best snapshot by.
DISTANCES = ("fd", "fid", "kid")
#: Share of the real images that the reader of parts is not fitted to, but tested on.
HELD_OUT = 0.2
#: Images that the reader of parts is fitted to at most.
FITTED = 20_000

#: `(stage, done, total)`
Report = Callable[[str, int, int], None]
Values = dict[str, float]


@dataclass(frozen=True)
class Metric:
    """A metric and how many generated images it takes."""

    name: str
    images: int

    @classmethod
    def parse(cls, text: str, images: int) -> Metric:
        """`fid50k`, `kid5000` or `ppl_w`, which takes `images`. Raises InputError for an unknown name or too few images."""
        match = re.fullmatch(r"([a-z_]+?)(?:(\d{1,7})(k?))?", text)
        if match is None or match[1] not in METRICS:
            raise InputError(
                f"unknown metric {text!r}: choose of {', '.join(METRICS)}, with a number of images behind, as in fd5k"
            )
        count = images if match[2] is None else int(match[2]) * (1000 if match[3] else 1)
        least = {"pr": NEIGHBOURS + 1, "is": SPLITS, "ls_z": 4, "ls_w": 4}.get(match[1], 2)
        if count < least:
            raise InputError(f"{match[1]} takes {least} images or more, not {count}")
        return cls(match[1], count)


@dataclass(frozen=True)
class Source:
    """What metrics are computed with, beside the generator: real images, other real images for the floor, local weights."""

    data: Path | None = None
    floor: Path | None = None
    inception: Path | None = None
    lpips: tuple[Path, ...] = ()
    cache: Path | None = None


class Evaluator:
    """Computes metrics; what several of them need is made once, and real images are read once for many generators.

    Raises InputError at once when a metric lacks what it needs.
    """

    def __init__(self, metrics: Sequence[Metric], source: Source, report: Report | None = None) -> None:
        self.metrics, self.source = tuple(metrics), source
        self.report: Report = report or (lambda stage, done, total: None)
        names = {m.name for m in metrics}
        for name in ("fid", "is"):
            if name in names and source.inception is None:
                instead = "; fd is the offline stand-in" if name == "fid" else ""
                raise InputError(f"{name} is defined on the Inception network: give its weights with --inception{instead}")
        if source.data is None and not names <= set(PATH_METRICS):
            raise InputError(f"{', '.join(sorted(names - set(PATH_METRICS)))}: give the real images with --data")

    def evaluate(self, generator: Generator) -> Values:
        """The value of each metric of this generator, on a CPU, by its full name."""
        values: Values = {}
        self._fakes: dict[str, np.ndarray] = {}
        for metric in self.metrics:
            if metric.name in FEATURE_METRICS:
                values |= self._of_features(metric, lambda e: self._generated(e, generator))
            elif metric.name in PATH_METRICS:
                values |= self._path_length(metric, generator)
            elif metric.name == "modes":
                values |= self._modes(self.reader.read(self._pixels(generator, metric.images)), metric.images)
            else:
                values |= self._separability(metric, generator)
        return values

    def floor(self) -> Values:
        """The same between two sets of real images: `floor` and `data`, and for modes the images held out from `data`."""
        values: Values = {}
        for metric in self.metrics:
            if metric.name in FEATURE_METRICS and self.source.floor is not None:
                values |= self._of_features(metric, self._of_floor)
            elif metric.name == "modes":
                values |= self._modes(self.reader.read(self.held_out[0]), metric.images)
        return values

    @property
    def real_images(self) -> int:
        """How many real images the largest comparison takes: for features, else those held out from the reader of parts."""
        if any(m.name in FEATURE_METRICS for m in self.metrics):
            return min(self._most(), len(self.dataset))
        return self._held() if any(m.name in PART_METRICS for m in self.metrics) else 0

    def _of_floor(self, extractor: Extractor) -> np.ndarray:
        shown = self._shown("floor images")
        return real_features(extractor, self.floor_dataset, self._most(), shown, self.source.cache)

    # --- what is made once -----------------------------------------------------------------------------------------

    @cached_property
    def dataset(self) -> ImageDataset:
        assert self.source.data is not None
        most = max(self._most(), FITTED if any(m.name in PART_METRICS for m in self.metrics) else 0)
        return ImageDataset(self.source.data, limit=most, progress=self._shown("read images"))

    @cached_property
    def floor_dataset(self) -> ImageDataset:
        assert self.source.floor is not None
        return ImageDataset(self.source.floor, limit=self._most())

    @cached_property
    def stand_in(self) -> EffNetLite0:
        return EffNetLite0()

    @cached_property
    def inception(self) -> Inception:
        assert self.source.inception is not None
        return Inception(self.source.inception)

    @cached_property
    def distance(self) -> Distance:
        return Lpips(self.source.lpips) if self.source.lpips else EffNetLite0Distance(self.stand_in)

    @cached_property
    def parts(self) -> np.ndarray:
        assert self.source.data is not None
        return read_parts(self.source.data, self.dataset)

    @cached_property
    def reader(self) -> PartReader:
        kept = len(self.dataset) - self._held()
        return PartReader(self.dataset.images[:kept], self.parts[:kept])

    @property
    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        kept = len(self.dataset) - self._held()
        return self.dataset.images[kept:], self.parts[kept:]

    @cached_property
    def _real(self) -> dict[str, np.ndarray]:
        return {}

    # --- the metrics -----------------------------------------------------------------------------------------------

    def _of_features(self, metric: Metric, features: Callable[[Extractor], np.ndarray]) -> Values:
        wants_inception = metric.name in ("fid", "is") or (metric.name in ("kid", "pr") and self.source.inception is not None)
        extractor: Extractor = self.inception if wants_inception else self.stand_in
        if extractor.name not in self._real:
            self._real[extractor.name] = real_features(
                extractor, self.dataset, self._most(), self._shown("real images"), self.source.cache
            )
        real, fake = self._real[extractor.name][: metric.images], features(extractor)[: metric.images]
        if metric.name in ("fd", "fid"):
            return {"FID" if metric.name == "fid" else f"FD-{extractor.name}": frechet_distance(fake, real)}
        if metric.name == "kid":
            return {"KID" if wants_inception else f"KID-{extractor.name}": kernel_distance(fake, real)}
        if metric.name == "is":
            mean, deviation = inception_score(self.inception.logits(fake))
            return {"IS": mean, "IS-deviation": deviation}
        if len(real) <= NEIGHBOURS:
            raise InputError(f"precision and recall need more than {NEIGHBOURS} real images")
        precision, recall = precision_recall(fake, real)
        return {f"precision-{extractor.name}": precision, f"recall-{extractor.name}": recall}

    def _generated(self, extractor: Extractor, generator: Generator) -> np.ndarray:
        if extractor.name not in self._fakes:
            self._fakes[extractor.name] = generated_features(
                extractor, generator, self._most(), self._shown("generated images")
            )
        return self._fakes[extractor.name]

    def _path_length(self, metric: Metric, generator: Generator) -> Values:
        paths = Paths(metric.name[4], "_end" not in metric.name, "_crop" in metric.name)
        distances = path_distances(generator, self.distance, paths, metric.images, progress=self._shown(metric.name))
        suffix = "" if self.distance.name == "LPIPS" else f"-{self.distance.name}"
        return {f"PPL{metric.name[3:]}{suffix}": mean_within(distances)}

    def _modes(self, found: np.ndarray, images: int) -> Values:
        held_images, held_parts = self.held_out
        c: Coverage = coverage(found[:images], held_parts)
        return {
            f"parts covered (of {c.parts})": float(c.covered),
            "part frequencies, distance": c.distance,
            "distinct combinations": c.distinct,
            "reader, right on real images": float((self.reader.read(held_images) == held_parts).mean()),
        }

    def _separability(self, metric: Metric, generator: Generator) -> Values:
        margins = self.reader.margins(self._pixels(generator, metric.images))
        z = torch.from_numpy(generated_z(0, metric.images, generator.cfg.z_dim))
        latents = z if metric.name == "ls_z" else _ws(generator, z)
        return {f"linear separability in {metric.name[3:]}": linear_separability(latents.double().numpy(), margins, rare=True)}

    def _pixels(self, generator: Generator, count: int) -> np.ndarray:
        """`[count, C, R, R]`, as a dataset holds them. Made once for the largest count."""
        made = (generator.cfg.img_channels, generator.cfg.resolution, generator.cfg.resolution)
        if made != self.dataset.images.shape[1:]:
            raise InputError(
                f"parts are read at one size: the generator draws {list(made)}, the real images are "
                f"{list(self.dataset.images.shape[1:])}"
            )
        if "pixels" not in self._fakes:
            most = max(m.images for m in self.metrics if m.name in PART_METRICS)
            portions = []
            for i in range(0, most, 50):
                portions.append(generated_images(generator, i, min(50, most - i)).transpose(0, 3, 1, 2))
                self.report("drawn images", min(i + 50, most), most)
            self._fakes["pixels"] = np.concatenate(portions)
        return self._fakes["pixels"][:count]

    def _most(self) -> int:
        return max((m.images for m in self.metrics if m.name in FEATURE_METRICS), default=2)

    def _held(self) -> int:
        return max(int(len(self.dataset) * HELD_OUT), 1)

    def _shown(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self.report(stage, done, total)


@torch.no_grad()
def _ws(generator: Generator, z: torch.Tensor) -> torch.Tensor:
    """w `[N, w_dim]` of every latent, labels in turn."""
    ws: torch.Tensor = generator.mapping(z, labels_in_turn(generator, 0, len(z)))
    return ws[:, 0]
