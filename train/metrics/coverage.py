"""Mode coverage on a dataset that says which parts each image shows, such as the cats of examples/make_cats.py.

`parts.json` lies beside the images: `{"layers": [names], "choices": {image: [index per layer]}}`. It names the part
that every layer of an image shows. A linear classifier per layer, fitted to real images, reads the parts of generated
images. Its accuracy on other real images limits what the metric can show.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated

import msgspec
import numpy as np

from stylert.core.errors import DataError
from stylert.core.files.json_documents import read_document
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.image_files import open_files, path_in_archive

PARTS_FILE = "parts.json"
#: The classifier sees images averaged down to this side.
CLASSIFIER_SIZE = 32
#: Ridge penalty per image, for pixels in [-1, 1].
RIDGE = 1e-3
#: A part is covered if it has at least this share of its frequency among real images.
COVERED = 0.25
MAX_PARTS = 65536
#: Bytes of `parts.json`, at most: for each image, beside that, and in all.
BYTES_PER_IMAGE, BYTES, MAX_BYTES = 2**10, 2**21, 2**26

PartIndex = Annotated[int, msgspec.Meta(ge=0, lt=MAX_PARTS)]


@dataclass(frozen=True)
class PartsDocument:
    """The content of `parts.json`, as far as it is used."""

    choices: dict[str, list[PartIndex]]
    layers: list[str] = field(default_factory=list)


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
    path, subject, document = _read_parts_file(data)
    parts_of: dict[str, list[int]] = {}
    for written, parts in document.choices.items():
        name = (PurePosixPath(path).parent / path_in_archive(written)).as_posix()
        if name in parts_of:
            raise DataError(f"{subject} has the parts of {name!r} twice")
        parts_of[name] = parts
    rows = [parts_of.get(name, []) for name in dataset.names]
    if not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise DataError(f"{data}: the parts in {PARTS_FILE} must be one index per layer, for every image")
    return np.array(rows)


def read_layer_names(data: str | Path, count: int) -> tuple[str, ...]:
    """The names of the `count` layers of a dataset's parts, or `layer 0` and on where `parts.json` does not name each.

    Raises:
        DataError: `parts.json` is missing or damaged.
    """
    names = tuple(_read_parts_file(data)[2].layers)
    return names if len(set(names)) == len(names) == count else tuple(f"layer {i}" for i in range(count))


def _read_parts_file(data: str | Path) -> tuple[str, str, PartsDocument]:
    """The path of `parts.json` in a dataset, the subject of messages about it, and its content. Raises DataError."""
    with closing(open_files(data)) as files:
        path = files.find(PARTS_FILE)
        if path is None:
            raise DataError(f"{data} does not say what its images are made of: {PARTS_FILE} is missing")
        limit = min(BYTES + BYTES_PER_IMAGE * len(files.names), MAX_BYTES)
        content = files.read_document(path, limit)
    subject = f"dataset {data}: {path}"
    return path, subject, read_document(content, PartsDocument, subject, DataError, limit, limit)


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
