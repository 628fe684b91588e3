"""The inputs of metrics beside generated images: real images, their labels and parts, and feature networks.

As many real images are used as generated ones, or all that there are. A metric that ends in `_full` uses all of them. The
real images that are used are a random sample with a fixed seed, because a dataset may be ordered by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from stylert.core.errors import DataError, InputError
from stylert.core.progress import Progress
from stylert.models.features.extractors import EffNetLite0, Extractor, Inception
from stylert.models.features.perceptual import Distance, EffNetLite0Distance, Lpips
from stylert.models.features.st_vgg16 import StVgg16
from stylert.models.stylegan2.generator import NoiseMode
from stylert.models.stylegan2.networks import Generator
from stylert.train.data.dataset import ImageDataset
from stylert.train.metrics.coverage import PartClassifier, read_parts
from stylert.train.metrics.features import real_features
from stylert.train.metrics.metric import FEATURE_METRICS, PART_METRICS, PATH_METRICS, Metric
from stylert.train.selection import random_sample

#: Share of the real images that test the classifier of parts. It is fitted to the others.
HELD_OUT = 0.2
#: Real images that the classifier of parts uses, at most.
MAX_CLASSIFIER_IMAGES = 20_000
NOISE_MODES = ("random", "const", "none")


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


class SharedInputs:
    """The inputs that several metrics share. Each is read or computed at its first use, and kept."""

    def __init__(self, metrics: Sequence[Metric], inputs: EvaluationInputs, progress: Progress | None = None) -> None:
        """Check that the inputs suffice. Nothing is read yet.

        Args:
            metrics: The metrics. They decide how many real images are used.
            inputs: The inputs.
            progress: Called while images are read and their features are computed.

        Raises:
            InputError: A metric lacks an input, or the noise is unknown.
        """
        if inputs.noise_mode not in NOISE_MODES:
            raise InputError(f"the noise must be {', '.join(NOISE_MODES)}, not {inputs.noise_mode!r}")
        names = {m.name for m in metrics}
        for name in ("fid", "is"):
            if name in names and inputs.inception is None:
                instead = "; fd is the offline stand-in" if name == "fid" else ""
                raise InputError(f"{name} is defined on the Inception network: give its weights with --inception{instead}")
        if inputs.data is None and not names <= set(PATH_METRICS):
            raise InputError(f"{', '.join(sorted(names - set(PATH_METRICS)))}: give the real images with --data")
        self.metrics, self.inputs, self.progress = tuple(metrics), inputs, progress
        self._real_features: dict[str, np.ndarray] = {}

    @cached_property
    def dataset(self) -> ImageDataset:
        """The real images that are used, in random order."""
        assert self.inputs.data is not None
        needs_parts = any(m.name in PART_METRICS for m in self.metrics)
        count = max(self.most_generated, MAX_CLASSIFIER_IMAGES if needs_parts else 0)
        return random_sample(self.inputs.data, None if self._uses_all else count, self.progress)

    @cached_property
    def floor_images(self) -> ImageDataset:
        """The other real images, in random order."""
        assert self.inputs.floor is not None
        return random_sample(self.inputs.floor, None if self._uses_all else self.most_generated)

    @property
    def real_images(self) -> int:
        """Number of real images in the largest comparison of features, or else of parts; 0 without such metrics."""
        if any(m.name in FEATURE_METRICS for m in self.metrics):
            return len(self.dataset) if self._uses_all else min(self.most_generated, len(self.dataset))
        return self._held_out_count if any(m.name in PART_METRICS for m in self.metrics) else 0

    def labels(self, generator: Generator) -> np.ndarray | None:
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

    @cached_property
    def label_table(self) -> np.ndarray | None:
        """The labels `[M, c_dim]` of all real images. None without real images."""
        if self.inputs.data is None:
            return None
        try:
            return ImageDataset(self.inputs.data, use_labels=True, memory=0).labels
        except DataError as e:
            raise InputError(f"the generator takes labels, which are drawn from those of the real images: {e}") from None

    def extractor(self, metric: Metric) -> Extractor:
        """The network whose features a metric compares.

        `fid` and `is` are defined on the Inception network, `fd` on EfficientNet-Lite0, and `fd_vgg` on VGG16. `kid` and
        `pr` use Inception if its weights are given, and EfficientNet-Lite0 otherwise.
        """
        if metric.name in ("fid", "is") or (metric.name in ("kid", "pr") and self.inputs.inception is not None):
            return self.inception
        return self.vgg16 if metric.name == "fd_vgg" else self.efficientnet

    def real_features(self, extractor: Extractor) -> np.ndarray:
        """Features of the real images, float64 `[real_images, width]`."""
        if extractor.name not in self._real_features:
            self._real_features[extractor.name] = real_features(
                extractor, self.dataset, self.real_images, self.progress, self.inputs.cache
            )
        return self._real_features[extractor.name]

    def floor_features(self, extractor: Extractor) -> np.ndarray:
        """Features of the other real images, float64 `[M, width]`."""
        images = self.floor_images
        return real_features(extractor, images, len(images), self.progress, self.inputs.cache, "floor images")

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

    # --- how many images are used --------------------------------------------------------------------------------

    @property
    def _held_out_count(self) -> int:
        """Number of real images that test the classifier of parts."""
        return max(int(len(self.dataset) * HELD_OUT), 1)

    @property
    def most_generated(self) -> int:
        """The largest number of generated images of a feature metric."""
        return max((m.images for m in self.metrics if m.name in FEATURE_METRICS), default=2)

    @property
    def _uses_all(self) -> bool:
        """Whether a metric compares with all real images."""
        return any(m.full for m in self.metrics)
