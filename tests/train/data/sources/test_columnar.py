"""Parquet files and folders of Hugging Face datasets are read row by row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stylert.core.errors import DataError
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset
from tests.train.data.sources.source_files import labels_of, refusal, table_of


@pytest.mark.parametrize("form", ["parquet", "parquet folder", "plain binary", "datasets stream", "datasets file"])
def test_every_form_of_table_is_read_row_by_row(pixels, tmp_path, out, form):
    table, labels = table_of(pixels, [4, 0, 2, 2, 1], form == "plain binary"), [4, 0, 2, 2, 1]
    source = tmp_path / "data"
    source.mkdir()
    if form.startswith("datasets"):
        (source / "state.json").write_text("{}")
        writer = pa.ipc.new_stream if form.endswith("stream") else pa.ipc.new_file
        for i, part in enumerate((table.slice(0, 2), table.slice(2))):
            with writer(str(source / f"data-{i:05d}-of-00002.arrow"), table.schema) as f:
                f.write_table(part)
    elif form == "parquet folder":
        pq.write_table(table.slice(0, 3), source / "train-00000-of-00002.parquet")
        pq.write_table(table.slice(3), source / "train-00001-of-00002.parquet")
    else:
        source = source / "train.parquet"
        pq.write_table(table, source)
    assert convert_dataset(source, out, 16) == (5, [], 5)
    np.testing.assert_array_equal(ImageDataset(out).images.transpose(0, 2, 3, 1), pixels)
    assert [label for _, label in labels_of(out)] == labels


def test_missing_labels_and_columns_and_several_tables(pixels, tmp_path, out):
    pq.write_table(table_of(pixels), tmp_path / "plain.parquet")
    convert_dataset(tmp_path / "plain.parquet", out, 16)
    assert labels_of(out) is None
    pq.write_table(table_of(pixels, [1, None, 2, 3, 4]), tmp_path / "some.parquet")
    assert "4 of 5" in refusal(DataError, tmp_path / "some.parquet", out, 16)
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    assert "no column" in refusal(DataError, tmp_path / "text.parquet", out, 16)
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "plain.parquet").read_bytes()[:-100])
    refusal(DataError, tmp_path / "cut.parquet", out, 16)
    for split in ("train", "test"):
        (tmp_path / "both" / split).mkdir(parents=True)
        pq.write_table(table_of(pixels), tmp_path / "both" / split / "0.parquet")
    assert "name one of them" in refusal(DataError, tmp_path / "both", out, 16)
