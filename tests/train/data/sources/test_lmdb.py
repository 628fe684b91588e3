"""LMDB databases, as for LSUN, are read in the order of their keys."""

import lmdb
import numpy as np

from stylert.core.errors import DataError
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset
from tests.train.data.sources.source_files import encoded, refusal


def test_an_lmdb_is_read_in_the_order_of_its_keys(pixels, tmp_path, out):
    folder = tmp_path / "church_lmdb"
    database = lmdb.open(str(folder), map_size=2**20)
    with database.begin(write=True) as transaction:
        for key, image in zip((b"c", b"a", b"e", b"b", b"d"), pixels, strict=True):
            transaction.put(key, encoded(image, "webp", lossless=True))
    database.close()
    assert convert_dataset(folder, out, 16)[0] == 5
    np.testing.assert_array_equal(ImageDataset(out).images.transpose(0, 2, 3, 1), pixels[[1, 3, 0, 4, 2]])
    (folder / "data.mdb").write_bytes(b"no database" * 1000)
    refusal(DataError, folder, tmp_path / "x.zip", 16)
