"""Mode coverage on images of known parts: the classifier reads them back, and missing parts are counted."""

import json

import numpy as np
import pytest

from stylert.core.errors import DataError
from stylert.train.data.dataset import ImageDataset
from stylert.train.metrics.coverage import Coverage, PartClassifier, coverage, read_parts

SIZES = (3, 5, 2)


def draw(patterns, parts):
    """The sum of one pattern per layer, uint8 `[N, 3, R, R]`."""
    total = sum(p[column] for p, column in zip(patterns, parts.T, strict=True))
    return np.clip(127.5 + total, 0, 255).astype(np.uint8)


@pytest.fixture(params=[8, 64])
def patterns(request, rng):
    """Random patterns of 8 by 8 squares. They are orthogonal, so no two are similar."""
    basis = np.linalg.qr(rng.normal(size=(192, sum(SIZES))))[0].T.reshape(-1, 3, 8, 8)
    scale = request.param // 8
    whole = np.kron(basis, np.ones((1, 1, scale, scale))) * 40 / np.abs(basis).max()
    return np.split(whole, np.cumsum(SIZES)[:-1])


def choices(rng, count, sizes=SIZES):
    return np.stack([rng.integers(0, n, count) for n in sizes], axis=1)


def test_the_classifier_reads_the_parts_of_unseen_images(patterns, rng):
    known, unseen = choices(rng, 600), choices(rng, 200)
    classifier = PartClassifier(draw(patterns, known), known)
    np.testing.assert_array_equal(classifier.predict(draw(patterns, unseen)), unseen)
    margins = classifier.margins(draw(patterns, unseen))
    assert margins.shape == (200, sum(SIZES))
    one_hot = np.concatenate([np.eye(n)[c] for n, c in zip(SIZES, unseen.T, strict=True)], axis=1)
    np.testing.assert_array_equal(margins > 0, one_hot > 0)


def test_missing_and_rare_parts_are_not_covered():
    real = np.stack([np.arange(1000) % 5, np.arange(1000) % 2], axis=1)
    assert coverage(real, real) == Coverage(7, 7, 0.0, 10 / 1000)
    generated = real.copy()
    generated[generated[:, 0] == 4, 0] = 0  # one part of five becomes another one
    assert coverage(generated, real) == Coverage(6, 7, pytest.approx(0.2 / 2), 8 / 1000)
    generated[:51, 0] = 4  # 51 of 1000 images; 200 of the real ones
    assert coverage(generated, real).covered == 7
    generated[:51, 0] = 0
    generated[:49, 0] = 4
    assert coverage(generated, real).covered == 6


def test_disjoint_parts_are_at_distance_one(rng):
    real = choices(rng, 100)
    assert coverage(real + np.array(SIZES), real).distance == pytest.approx(1)


@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_parts_are_found_by_the_names_of_the_images(write_dataset, rng, kind):
    images = {f"{i:02d}.png": rng.integers(0, 256, (4, 4, 3), np.uint8) for i in range(12)}
    parts = choices(rng, 12)
    rows = {name: row.tolist() for name, row in zip(images, parts, strict=True)}
    path = write_dataset(images | {"parts.json": json.dumps({"choices": rows}).encode()}, kind=kind)
    np.testing.assert_array_equal(read_parts(path, ImageDataset(path, limit=7)), parts[:7])


@pytest.mark.parametrize(
    "parts",
    [
        None,
        b"{",
        b"[]",
        b'{"choices": {}}',
        b'{"choices": {"a.png": [1, -1]}}',
        b'{"choices": {"a.png": []}}',
        b'{"choices": {"a.png": 3}}',
        b'{"choices": {"a.png": ["x"]}}',
        b'{"choices": {"a.png": [1.5]}}',
        b'{"choices": {"a.png": [99999999]}}',
        b'{"choices": {"a.png": [1], "a.png": [2]}}',
        b'{"choices": {"a.png": [1], "./a.png": [2]}}',
        b'{"choices": {"a.png": [1]}, "choices": {"a.png": [2]}}',
    ],
)
def test_missing_and_invalid_parts_are_refused(write_dataset, rng, parts):
    files = {"a.png": rng.integers(0, 256, (4, 4, 3), np.uint8)} | ({} if parts is None else {"parts.json": parts})
    path = write_dataset(files)
    with pytest.raises(DataError, match="parts") as e:
        read_parts(path, ImageDataset(path))
    assert "\n" not in str(e.value)
