"""Damage anywhere in a source gives an error of one line, or a dataset that can be read."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.core.errors import StylertError
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset
from tests.train.data.sources.source_files import cifar_tar, idx_files, python2_pickle, table_of


@pytest.fixture
def pictures(pixels):
    """`pixels` with a short representation, because hypothesis prints what it draws."""
    return type("Pictures", (), {"all": pixels, "__repr__": lambda self: "pictures"})()


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=4), data=st.data())
def test_damage_gives_one_line_or_a_dataset(pictures, tmp_path, write_dataset, cut, flips, data):
    form = data.draw(st.sampled_from(["zip", "idx", "cifar", "parquet"]))
    if form == "zip":
        path = write_dataset({"a.png": pictures.all[0], "b.png": pictures.all[1]}, [["a.png", 0], ["b.png", 1]])
    elif form == "idx":
        path = idx_files(tmp_path, np.zeros((2, 28, 28), np.uint8), [1, 2], zipped=data.draw(st.booleans()))
    elif form == "cifar":
        batch = b"\x80\x02" + python2_pickle({"labels": [1, 2], "data": np.zeros((2, 3072), np.uint8)}) + b"."
        path = cifar_tar(tmp_path / "cifar-10-python.tar.gz", {"data_batch_1": batch})
    else:
        path = tmp_path / "x.parquet"
        pq.write_table(table_of(pictures.all, [1] * 5), path)
    raw = bytearray(path.read_bytes())
    for position, mask in flips:
        raw[int(position * len(raw))] ^= mask
    path.write_bytes(raw[: int(cut * len(raw)) + 1])
    out = tmp_path / "fuzzed.zip"
    out.unlink(missing_ok=True)
    try:
        count, _, _ = convert_dataset(path, out, 32, skip_corrupt=data.draw(st.booleans()))
    except StylertError as e:
        assert "\n" not in str(e)
        assert not out.exists()
    else:
        assert len(ImageDataset(out)) == count
