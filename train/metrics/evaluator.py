"""Computes metrics of a generator. Each input that several metrics share is made once.

As many real images are used as generated ones, or all that there are. A metric that ends in `_full` uses all of them. The
real images that are used are a random sample with a fixed seed, because a dataset may be ordered by class.

The labels of generated images are drawn from those of all real images.

`fid` and `is` are defined on the Inception network, `fd` on EfficientNet-Lite0, and `fd_vgg` on VGG16. `kid` and `pr` use Inception if its
weights are given, and EfficientNet-Lite0 otherwise. The names of the values say which network was used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch

from stylert.core.errors import DataError, InputError
from stylert.core.progress import Progress
from stylert.core.seeds import z_from_seeds
from stylert.models.features.extractors import EffNetLite0, Extractor, Inception
from stylert.models.features.perceptual import Distance, EffNetLite0Distance, Lpips
from stylert.models.features.st_vgg16 import StVgg16
from stylert.models.stylegan2.generator import NoiseMode
from stylert.models.stylegan2.networks import Generator
from stylert.train.data.dataset import ImageDataset
from stylert.train.metrics.coverage import PartClassifier, coverage, read_parts
from stylert.train.metrics.distances import NEIGHBOURS, frechet_distance, inception_score, kernel_distance, precision_recall
from stylert.train.metrics.features import generated_features, generated_images, real_features, seeds_of_images
from stylert.train.metrics.metric import FEATURE_METRICS, FULL, PART_METRICS, PATH_METRICS, Metric
from stylert.train.metrics.perceptual_path import PathSampling, mean_without_outliers, path_distances
from stylert.train.metrics.separability import linear_separability
from stylert.train.sampling import labels_of_seeds
from stylert.train.selection import random_sample

#: Share of the real images that test the classifier of parts. It is fitted to the others.
HELD_OUT = 0.2
#: Real images that the classifier of parts uses, at most.
MAX_CLASSIFIER_IMAGES = 20_000
BATCH = 50
NOISE_MODES = ("random", "const", "none")

#: The values of metrics, by the name under which they are reported.
Values = dict[str, float]


@dataclass(frozen=True)
class EvaluationInputs:
    """Everything besides the generator that metrics are computed from.

    Attributes:
        data: Zip or folder of real images.
        floor: Other real images. Their distance to `data` is about the best value that a generator can reach.
        inception: Weights of the Inception network.
        lpips: Weights of VGG16 and of LPIPS.
        cache: Folder for features of real images.
        noise_mode: Noise of the generated images, one of `NOISE_MODES`. `random` is that of the official metrics.
    """

    data: Path | None = None
    floor: Path | None = None
    inception: Path | None = None
    lpips: tuple[Path, ...] = ()
    cache: Path | None = None
    noise_mode: NoiseMode = "random"


class Evaluator:
    """Computes the same metrics of one or several generators. Real images are read once."""

    def __init__(self, metrics: Sequence[Metric], inputs: EvaluationInputs, progress: Progress | None = None) -> None:
        """Check that the inputs suffice. Nothing is read yet.

        Args:
            metrics: The metrics.
            inputs: The inputs.
            progress: Called while images are read, generated and compared.

        Raises:
            InputError: A metric lacks an input, or the noise is unknown.
        """
        if inputs.noise_mode not in NOISE_MODES:
            raise InputError(f"the noise must be {', '.join(NOISE_MODES)}, not {inputs.noise_mode!r}")
        self.metrics, self.inputs, self.progress = tuple(metrics), inputs, progress
        names = {m.name for m in metrics}
        for name in ("fid", "is"):
            if name in names and inputs.inception is None:
                instead = "; fd is the offline stand-in" if name == "fid" else ""
                raise InputError(f"{name} is defined on the Inception network: give its weights with --inception{instead}")
        if inputs.data is None and not names <= set(PATH_METRICS):
            raise InputError(f"{', '.join(sorted(names - set(PATH_METRICS)))}: give the real images with --data")
        self._real_features: dict[str, np.ndarray] = {}

    def evaluate(self, generator: Generator) -> Values:
        """The values of all metrics of a generator, which is on a CPU.

        With another noise than `random`, the names of the values say so.

        Raises:
            DataError: The real images cannot be read.
            InputError: There are too few of them, the generator has another resolution or other labels than they, or its images
                are neither grey nor RGB.
        """
        if generator.cfg.img_channels not in (1, 3):
            raise InputError(f"metrics compare grey or RGB images, and this network has {generator.cfg.img_channels} channels")
        by_extractor: dict[str, np.ndarray] = {}

        def features(extractor: Extractor) -> np.ndarray:
            if extractor.name not in by_extractor:
                by_extractor[extractor.name] = generated_features(
                    extractor,
                    generator,
                    self._most_images,
                    self.progress,
                    labels=self._labels(generator),
                    noise_mode=self.inputs.noise_mode,
                )
            return by_extractor[extractor.name]

        @cache
        def pixels() -> np.ndarray:
            return self._generated_pixels(generator)

        values: Values = {}
        for metric in self.metrics:
            if metric.name in FEATURE_METRICS:
                values |= self._feature_values(metric, features)
            elif metric.name in PATH_METRICS:
                values |= self._path_length(metric, generator)
            elif metric.name == "modes":
                values |= self._modes(self.classifier.predict(pixels()[: metric.images]))
            else:
                values |= self._separability(metric, generator, pixels()[: metric.images])
        return self._with_noise_named(values)

    def floor(self) -> Values:
        """The values between two sets of real images, for the metrics that have them.

        Feature metrics compare `inputs.floor` with `inputs.data`. Modes compare the parts that the classifier reads in
        held-out images with their known parts.
        """

        def features(extractor: Extractor) -> np.ndarray:
            images = self.floor_images
            return real_features(extractor, images, len(images), self.progress, self.inputs.cache, "floor images")

        values: Values = {}
        for metric in self.metrics:
            if metric.name in FEATURE_METRICS and self.inputs.floor is not None:
                values |= self._feature_values(metric, features)
            elif metric.name == "modes":
                held_out_images, _ = self.held_out
                values |= self._modes(self.classifier.predict(held_out_images)[: metric.images])
        return self._with_noise_named(values)

    def _with_noise_named(self, values: Values) -> Values:
        mode = self.inputs.noise_mode
        return values if mode == "random" else {f"{name} ({mode} noise)": value for name, value in values.items()}

    @property
    def real_images(self) -> int:
        """Number of real images in the largest comparison of features, or else of parts; 0 without such metrics."""
        if any(m.name in FEATURE_METRICS for m in self.metrics):
            return len(self.dataset) if self._uses_all else min(self._most_images, len(self.dataset))
        return self._held_out_count if any(m.name in PART_METRICS for m in self.metrics) else 0

    # --- shared inputs, made at their first use --------------------------------------------------------------------

    @cached_property
    def dataset(self) -> ImageDataset:
        """The real images that are used, in random order."""
        assert self.inputs.data is not None
        needs_parts = any(m.name in PART_METRICS for m in self.metrics)
        count = max(self._most_images, MAX_CLASSIFIER_IMAGES if needs_parts else 0)
        return random_sample(self.inputs.data, None if self._uses_all else count, self.progress)

    @cached_property
    def floor_images(self) -> ImageDataset:
        """The other real images, in random order."""
        assert self.inputs.floor is not None
        return random_sample(self.inputs.floor, None if self._uses_all else self._most_images)

    @cached_property
    def label_table(self) -> np.ndarray | None:
        """The labels `[M, c_dim]` of all real images. None without real images."""
        if self.inputs.data is None:
            return None
        try:
            return ImageDataset(self.inputs.data, use_labels=True, memory=0).labels
        except DataError as e:
            raise InputError(f"the generator takes labels, which are drawn from those of the real images: {e}") from None

    @cached_property
    def efficientnet(self) -> EffNetLite0:
        """EfficientNet-Lite0."""
        return EffNetLite0()

    @cached_property
    def vgg16(self) -> StVgg16:
        """VGG16 of ST-LPIPS."""
        return StVgg16()

    @cached_property
    def inception(self) -> Inception:
        """The Inception network."""
        assert self.inputs.inception is not None
        return Inception(self.inputs.inception)

    @cached_property
    def distance(self) -> Distance:
        """The perceptual distance: LPIPS if its weights are given, or its formula on EfficientNet-Lite0."""
        return Lpips(self.inputs.lpips) if self.inputs.lpips else EffNetLite0Distance(self.efficientnet)

    @cached_property
    def parts(self) -> np.ndarray:
        """The parts of the real images, `[M, L]`."""
        assert self.inputs.data is not None
        return read_parts(self.inputs.data, self.dataset)

    @cached_property
    def classifier(self) -> PartClassifier:
        """The classifier of parts, fitted to all real images that are not held out."""
        fitted = len(self.dataset) - self._held_out_count
        return PartClassifier(self.dataset.images[:fitted], self.parts[:fitted])

    @property
    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """The last real images and their parts. The classifier is tested on them."""
        fitted = len(self.dataset) - self._held_out_count
        return self.dataset.images[fitted:], self.parts[fitted:]

    @property
    def _held_out_count(self) -> int:
        return max(int(len(self.dataset) * HELD_OUT), 1)

    @property
    def _uses_all(self) -> bool:
        """Whether a metric compares with all real images."""
        return any(m.full for m in self.metrics)

    def _labels(self, generator: Generator) -> np.ndarray | None:
        """The labels that those of generated images are drawn from. None where there are none, or no real images."""
        c_dim = generator.cfg.c_dim
        if not c_dim or self.label_table is None:
            return None
        labels, width = self.label_table, self.label_table.shape[1]
        is_one_hot = bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all())
        if width < c_dim and is_one_hot:  # no real image has one of the last classes
            return np.pad(labels, [(0, 0), (0, c_dim - width)])
        if width != c_dim:
            raise InputError(f"the generator takes labels of {c_dim} numbers, those of {self.inputs.data} have {width}")
        return labels

    @property
    def _most_images(self) -> int:
        """The largest number of images of a feature metric."""
        return max((m.images for m in self.metrics if m.name in FEATURE_METRICS), default=2)

    def _generated_pixels(self, generator: Generator) -> np.ndarray:
        """Generated images uint8 `[N, C, R, R]`, for the part metric that needs most."""
        shape = (generator.cfg.img_channels, generator.cfg.resolution, generator.cfg.resolution)
        if shape != self.dataset.images.shape[1:]:
            raise InputError(
                f"parts are read at one size: the generator draws {list(shape)}, the real images are "
                f"{list(self.dataset.images.shape[1:])}"
            )
        count = max(m.images for m in self.metrics if m.name in PART_METRICS)
        batches = []
        for start in range(0, count, BATCH):
            n = min(BATCH, count - start)
            images = generated_images(generator, start, n, self._labels(generator), self.inputs.noise_mode)
            batches.append(images.transpose(0, 3, 1, 2))
            if self.progress is not None:
                self.progress("drawn images", start + n, count)
        return np.concatenate(batches)

    # --- the metrics -----------------------------------------------------------------------------------------------

    def _feature_values(self, metric: Metric, features: Callable[[Extractor], np.ndarray]) -> Values:
        """A metric between real features and those that `features` returns."""
        on_inception = metric.name in ("fid", "is") or (metric.name in ("kid", "pr") and self.inputs.inception is not None)
        extractor: Extractor = self.inception if on_inception else self.efficientnet
        if metric.name == "fd_vgg":
            extractor = self.vgg16
        if extractor.name not in self._real_features:
            self._real_features[extractor.name] = real_features(
                extractor, self.dataset, self.real_images, self.progress, self.inputs.cache
            )
        real = self._real_features[extractor.name][: None if metric.full else metric.images]
        compared = features(extractor)[: metric.images]
        suffix = FULL if metric.full else ""
        if metric.name == "fid":
            return {f"FID{suffix}": frechet_distance(compared, real)}
        if metric.name in ("fd", "fd_vgg"):
            return {f"FD-{extractor.name}{suffix}": frechet_distance(compared, real)}
        if metric.name == "kid":
            return {("KID" if on_inception else f"KID-{extractor.name}") + suffix: kernel_distance(compared, real)}
        if metric.name == "is":
            mean, deviation = inception_score(self.inception.logits(compared))
            return {"IS": mean, "IS-deviation": deviation}
        if len(real) <= NEIGHBOURS:
            raise InputError(f"precision and recall need more than {NEIGHBOURS} real images")
        precision, recall = precision_recall(compared, real)
        return {f"precision-{extractor.name}{suffix}": precision, f"recall-{extractor.name}{suffix}": recall}

    def _path_length(self, metric: Metric, generator: Generator) -> Values:
        """A metric named `ppl_<space>[_end][_crop]`."""
        options = metric.name.split("_")[1:]
        sampling = PathSampling(options[0], "end" not in options, "crop" in options, self.inputs.noise_mode)
        distances = path_distances(
            generator,
            self.distance,
            sampling,
            metric.images,
            progress=self.progress,
            stage=metric.name,
            labels=self._labels(generator),
        )
        suffix = "" if self.distance.name == "LPIPS" else f"-{self.distance.name}"
        return {f"PPL_{'_'.join(options)}{suffix}": mean_without_outliers(distances)}

    def _modes(self, parts: np.ndarray) -> Values:
        """Coverage of the predicted parts, and the accuracy of the classifier on held-out real images."""
        held_out_images, held_out_parts = self.held_out
        result = coverage(parts, held_out_parts)
        return {
            f"parts covered (of {result.parts})": float(result.covered),
            "part frequencies, distance": result.distance,
            "distinct combinations": result.distinct,
            "reader, right on real images": float((self.classifier.predict(held_out_images) == held_out_parts).mean()),
        }

    def _separability(self, metric: Metric, generator: Generator, pixels: np.ndarray) -> Values:
        """A metric named `ls_z` or `ls_w`."""
        space = metric.name.removeprefix("ls_")
        seeds = seeds_of_images(0, metric.images)
        latents = torch.from_numpy(z_from_seeds(seeds, generator.cfg.z_dim))
        if space == "w":
            latents = _map_to_w(generator, latents, labels_of_seeds(generator, seeds, self._labels(generator)))
        margins = self.classifier.margins(pixels)
        return {f"linear separability in {space}": linear_separability(latents.double().numpy(), margins, rare=True)}


@torch.no_grad()
def _map_to_w(generator: Generator, z: torch.Tensor, c: torch.Tensor | None) -> torch.Tensor:
    """w `[N, w_dim]` of z `[N, z_dim]` and labels `[N, c_dim]`."""
    ws: torch.Tensor = generator.mapping(z, c)
    return ws[:, 0]
