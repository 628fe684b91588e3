"""Mode coverage on a dataset that says which parts each image shows, such as the cats of examples/make_cats.py.

`parts.json` lies beside the images: `{"layers": [names], "choices": {image: [index per layer]}}`. It names the part
that every layer of an image shows. A linear classifier per layer, fitted to real images, reads the parts of generated
images. Its accuracy on other real images limits what the metric can show.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stylert.core.errors import DataError
from stylert.train.data.dataset import ImageDataset, open_files

PARTS_FILE = "parts.json"
#: The classifier sees images averaged down to this side.
CLASSIFIER_SIZE = 32
#: Ridge penalty per image, for pixels in [-1, 1].
RIDGE = 1e-3
#: A part is covered if it has at least this share of its frequency among real images.
COVERED = 0.25
MAX_PARTS = 65536


@dataclass(frozen=True)
class Coverage:
    """The parts of generated images compared with those of real ones.

    Attributes:
        covered: Number of parts, over all layers, that are at least a quarter as frequent as among real images.
        parts: Number of parts, over all layers, that real images show.
        distance: Total variation distance of the frequencies, as a mean over the layers: 0 for equal, 1 for disjoint.
        distinct: Number of distinct combinations of parts, divided by the number of images.
    """

    covered: int
    parts: int
    distance: float
    distinct: float


def read_parts(data: str | Path, dataset: ImageDataset) -> np.ndarray:
    """The parts of the images of a dataset.

    Args:
        data: The zip or folder of the dataset.
        dataset: The same, opened; its `names` select the images.

    Returns:
        Indices int64 `[M, L]`.

    Raises:
        DataError: `parts.json` is missing, damaged, or not of these images.
    """
    files, read = open_files(data)
    if PARTS_FILE not in files:
        raise DataError(f"{data} does not say what its images are made of: {PARTS_FILE} is missing")
    try:
        choices = json.loads(read(PARTS_FILE))["choices"]
        parts = np.array([choices[name] for name in dataset.names])
    except Exception as e:  # zipfile and json raise many types for damaged files
        raise DataError(f"{data}: {PARTS_FILE} has no usable parts ({e!r})") from None
    if parts.ndim != 2 or not parts.size or parts.dtype.kind != "i" or parts.min() < 0 or parts.max() >= MAX_PARTS:
        raise DataError(f"{data}: the parts in {PARTS_FILE} must be one index per layer")
    return parts


class PartClassifier:
    """A linear classifier of parts for each layer: ridge regression from pixels to one-hot parts."""

    def __init__(self, images: np.ndarray, parts: np.ndarray) -> None:
        """Fit the classifier.

        Args:
            images: uint8 `[M, C, R, R]`.
            parts: Their parts `[M, L]`.
        """
        x = _pixels(images)
        self.sizes = parts.max(0) + 1  # number of parts in each layer
        self.bounds = np.cumsum(self.sizes)[:-1]
        one_hot = [np.eye(size)[column] for size, column in zip(self.sizes, parts.T, strict=True)]
        targets = np.concatenate(one_hot, axis=1)
        gram = x.T @ x
        gram[np.diag_indices_from(gram)] += RIDGE * len(x)
        self.weights = np.linalg.solve(gram, x.T @ targets)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The part of each layer, `[N, L]`, of uint8 images `[N, C, R, R]`."""
        return np.stack([scores.argmax(1) for scores in self._scores(images)], axis=1)

    def margins(self, images: np.ndarray) -> np.ndarray:
        """By how much the score of each part exceeds the best other score of its layer.

        Returns:
            `[N, S]`, where S is the number of parts over all layers. Positive for the predicted parts alone.
        """
        margins = []
        for scores in self._scores(images):
            best = scores.max(1)
            second = np.sort(scores, axis=1)[:, -2] if scores.shape[1] > 1 else np.full(len(scores), -np.inf)
            best_other = np.where(scores == best[:, None], second[:, None], best[:, None])
            margins.append(scores - best_other)
        return np.concatenate(margins, axis=1)

    def _scores(self, images: np.ndarray) -> list[np.ndarray]:
        """Scores `[N, parts]` of each layer."""
        return np.split(_pixels(images) @ self.weights, self.bounds, axis=1)


def coverage(generated: np.ndarray, real: np.ndarray) -> Coverage:
    """Compare the parts `[N, L]` of generated images with the parts `[M, L]` of real ones."""
    covered = parts = 0
    distances = []
    for generated_layer, real_layer in zip(generated.T, real.T, strict=True):
        size = int(max(generated_layer.max(), real_layer.max())) + 1
        p = np.bincount(generated_layer, minlength=size) / len(generated_layer)
        q = np.bincount(real_layer, minlength=size) / len(real_layer)
        parts += int((q > 0).sum())
        covered += int(((p >= COVERED * q) & (q > 0)).sum())
        distances.append(np.abs(p - q).sum() / 2)
    distinct = len(np.unique(generated, axis=0)) / len(generated)
    return Coverage(covered, parts, float(np.mean(distances)), distinct)


def _pixels(images: np.ndarray) -> np.ndarray:
    """float64 `[N, pixels + 1]`: pixels in [-1, 1], averaged down, and a one for the bias."""
    n, c, side, _ = images.shape
    factor = max(side // CLASSIFIER_SIZE, 1)
    blocks = images.reshape(n, c, side // factor, factor, side // factor, factor)
    small = blocks.mean((3, 5), dtype=np.float64)
    return np.concatenate([small.reshape(n, -1) / 127.5 - 1, np.ones((n, 1))], axis=1)
