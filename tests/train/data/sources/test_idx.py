"""The idx files of MNIST: pixels and labels are read, and wrong headers are refused."""

import gzip

import numpy as np
import pytest

from stylert.core.errors import DataError
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset
from stylert.train.data.sources import idx
from tests.train.data.sources.source_files import idx_files, labels_of, refusal


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_is_padded_to_32_with_its_labels(rng, tmp_path, out, zipped):
    images, labels = rng.integers(0, 256, (6, 28, 28), np.uint8), rng.integers(0, 10, 6).tolist()
    convert_dataset(idx_files(tmp_path, images, labels, zipped), out, 32)
    images_read = ImageDataset(out).images
    assert images_read.shape == (6, 1, 32, 32)
    np.testing.assert_array_equal(images_read[:, 0], np.pad(images, [(0, 0), (2, 2), (2, 2)]))
    assert [label for _, label in labels_of(out)] == labels


def test_idx_files_with_wrong_counts_or_sizes_are_refused(rng, tmp_path, out, monkeypatch):
    images = rng.integers(0, 256, (6, 28, 28), np.uint8)
    path = idx_files(tmp_path, images, [0] * 5)
    assert "5 labels for 6" in refusal(DataError, path, out, 32)
    whole = gzip.decompress(path.read_bytes())
    for wrong in (whole[:-1], whole + b"x", whole[:10], b"\0" * 100):
        path.write_bytes(gzip.compress(wrong))
        refusal(DataError, path, out, 32)
    path.write_bytes(gzip.compress(whole)[:-20])
    refusal(DataError, path, out, 32)
    monkeypatch.setattr(idx, "MAX_UNPACKED", 1000)
    path.write_bytes(gzip.compress(whole))
    assert "unpacks to" in refusal(DataError, path, out, 32)
