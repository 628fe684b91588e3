"""Mode coverage on a dataset that says what each of its images is made of, such as the cats.

`parts.json` beside the images, `{"layers": [names], "choices": {image: [index per layer]}}`, names the part that every layer of
an image shows. What a generated image shows is read by a linear classifier per layer, fitted to real images; how well it reads
real ones that it has not seen is measured with it, and bounds what it can say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stylert.core.errors import DataError
from stylert.train.data.dataset import ImageDataset, open_files

PARTS_FILE = "parts.json"
#: Side to which images are averaged down before they are read.
READ_SIZE = 32
#: Ridge penalty per image and pixel, pixels in [-1, 1].
RIDGE = 1e-3
#: A part counts as covered from this share of its frequency among real images on.
COVERED = 0.25


@dataclass(frozen=True)
class Coverage:
    """How the parts of generated images are spread beside those of real ones."""

    covered: int  #: parts, over all layers, that occur at least a quarter as often as among the real images
    parts: int  #: parts that the real images have, over all layers
    distance: float  #: total variation distance of the parts' frequencies, mean over the layers: 0 alike, 1 disjoint
    distinct: float  #: distinct combinations per image


def read_parts(data: str | Path, dataset: ImageDataset) -> np.ndarray:
    """Part indices `[M, L]` of a dataset's images. Raises DataError when they are not there, or not of these images."""
    files, read = open_files(data)
    if PARTS_FILE not in files:
        raise DataError(f"{data} does not say what its images are made of: {PARTS_FILE} is missing")
    try:
        choices = json.loads(read(PARTS_FILE))["choices"]
        parts = np.array([choices[name] for name in dataset.names])
    except Exception as e:  # an archive raises many kinds; all of them mean parts that cannot be read
        raise DataError(f"{data}: {PARTS_FILE} has no usable parts ({e!r})") from None
    if parts.ndim != 2 or not parts.size or parts.dtype.kind != "i" or parts.min() < 0 or parts.max() > 65535:
        raise DataError(f"{data}: the parts in {PARTS_FILE} must be one index per layer")
    return parts


class PartReader:
    """A linear classifier per layer: least squares on the pixels, with a ridge, to one-hot parts.

    `images` uint8 `[M, C, R, R]`, `parts` `[M, L]`.
    """

    def __init__(self, images: np.ndarray, parts: np.ndarray) -> None:
        x = _pixels(images)
        self.sizes = parts.max(0) + 1
        targets = np.concatenate([np.eye(n)[column] for n, column in zip(self.sizes, parts.T, strict=True)], axis=1)
        gram = x.T @ x
        gram[np.diag_indices_from(gram)] += RIDGE * len(x)
        self.weights = np.linalg.solve(gram, x.T @ targets)

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Scores of every part of every layer, side by side, `[N, sum of sizes]`."""
        scores: np.ndarray = _pixels(images) @ self.weights
        return scores

    def read(self, images: np.ndarray) -> np.ndarray:
        """The part that each layer shows, `[N, L]`."""
        bounds = np.cumsum(self.sizes)[:-1]
        return np.stack([s.argmax(1) for s in np.split(self.scores(images), bounds, axis=1)], axis=1)

    def margins(self, images: np.ndarray) -> np.ndarray:
        """By how much each part's score exceeds the best other one of its layer, `[N, sum of sizes]`."""
        out = []
        for s in np.split(self.scores(images), np.cumsum(self.sizes)[:-1], axis=1):
            best, order = s.max(1), np.sort(s, axis=1)
            second = order[:, -2] if s.shape[1] > 1 else np.full(len(s), -np.inf)
            out.append(s - np.where(s == best[:, None], second[:, None], best[:, None]))
        return np.concatenate(out, axis=1)


def coverage(found: np.ndarray, real: np.ndarray) -> Coverage:
    """Of the parts `[N, L]` of generated images, beside the parts `[M, L]` of real ones."""
    covered, distances = 0, []
    parts = 0
    for mine, theirs in zip(found.T, real.T, strict=True):
        size = int(max(mine.max(), theirs.max())) + 1
        p, q = np.bincount(mine, minlength=size) / len(mine), np.bincount(theirs, minlength=size) / len(theirs)
        parts += int((q > 0).sum())
        covered += int(((p >= COVERED * q) & (q > 0)).sum())
        distances.append(np.abs(p - q).sum() / 2)
    return Coverage(covered, parts, float(np.mean(distances)), len(np.unique(found, axis=0)) / len(found))


def _pixels(images: np.ndarray) -> np.ndarray:
    """`[N, pixels + 1]` in [-1, 1] with a one for the bias, float32 sums kept in float64."""
    n, c, side, _ = images.shape
    factor = max(side // READ_SIZE, 1)
    small = images.reshape(n, c, side // factor, factor, side // factor, factor).mean((3, 5), dtype=np.float64)
    return np.concatenate([small.reshape(n, -1) / 127.5 - 1, np.ones((n, 1))], axis=1)
