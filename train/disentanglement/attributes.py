"""Attributes that are read from the pixels of an image, so that images nobody has judged have them, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stylert.core.ridge import correlation, ridge_regression
from stylert.models.features.extractors import Extractor
from stylert.train.metrics.coverage import PartClassifier

#: An attribute whose reader correlates less with the truth is marked, and no sum counts it.
LEAST_CORRELATION = 0.5


@dataclass(frozen=True)
class Attribute:
    """One attribute.

    Attributes:
        name: Its name.
        source: `scores` of a user, or `parts` of a dataset.
        correlation: Between the reader and the truth, on images that the reader was not fitted to. 1 is exact, 0 is chance.
        share: Share of the images that have the attribute. None where 0 divides those that have it from the others.
    """

    name: str
    source: str
    correlation: float
    share: float | None = None

    @property
    def readable(self) -> bool:
        """Whether the reader is good enough to count."""
        return self.correlation >= LEAST_CORRELATION


class AttributeReader(Protocol):
    """Reads attributes of images."""

    attributes: tuple[Attribute, ...]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 images `[N, R, R, C]` to values of the attributes, float64 `[N, A]`."""
        ...


class ScoreReader:
    """Reads the scores of a user: a ridge regression for each, on the features of an extractor."""

    def __init__(self, extractor: Extractor, features: np.ndarray, scores: Mapping[str, np.ndarray]) -> None:
        """Fit the regressions.

        Args:
            extractor: The network of the features.
            features: Of the scored images, `[N, F]`.
            scores: By name, `[N]`. NaN stands for an image without that score.
        """
        self.extractor = extractor
        attributes, planes = [], []
        for name, score in scores.items():
            scored = np.isfinite(score)
            fit = ridge_regression(features[scored], score[scored])
            attributes.append(Attribute(name, "scores", fit.correlation, share_with(score[scored])))
            planes.append(np.append(fit.weights, fit.constant))
        self.attributes = tuple(attributes)
        self.planes = np.stack(planes, axis=1)  # [F + 1, A]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        values: np.ndarray = self.extractor(images) @ self.planes[:-1] + self.planes[-1]
        return values


class PartReader:
    """Reads by how much the score of each part exceeds the best other score of its layer."""

    def __init__(self, classifier: PartClassifier, layers: Sequence[str], held_out: tuple[np.ndarray, np.ndarray]) -> None:
        """Measure the classifier on real images that it was not fitted to.

        Args:
            classifier: The fitted classifier.
            layers: Names of the layers.
            held_out: Images uint8 `[M, C, R, R]` and their parts `[M, L]`.
        """
        self.classifier = classifier
        images, parts = held_out
        shown = classifier.margins(images) > 0
        truth = np.concatenate(
            [np.arange(size) == column[:, None] for size, column in zip(classifier.sizes, parts.T, strict=True)], axis=1
        )
        names = [f"{layer} {i}" for layer, size in zip(layers, classifier.sizes, strict=True) for i in range(size)]
        self.attributes = tuple(
            Attribute(name, "parts", correlation(a, b)) for name, a, b in zip(names, shown.T, truth.T, strict=True)
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.classifier.margins(images.transpose(0, 3, 1, 2))


def share_with(scores: np.ndarray) -> float:
    """The share of images that have an attribute: of those with the higher of two scores, or else the upper half."""
    values = np.unique(scores)
    return float((scores == values[-1]).mean()) if len(values) == 2 else 0.5
