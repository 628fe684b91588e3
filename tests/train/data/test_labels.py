"""Labels are found beside the pictures, or their absence is said. Training and the dataset tool read them alike."""

import json
import zipfile

import numpy as np
import pytest

from stylert.core.errors import DataError
from stylert.train.data import labels as labels_module
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset
from tests.train.data.sources.source_files import encoded, labels_of

READERS = {
    "training": lambda source, out: ImageDataset(source, use_labels=True),
    "tool": lambda source, out: convert_dataset(source, out, 16),
}
both_readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


def refusal(read, source, out):
    with pytest.raises(DataError) as e:
        read(source, out)
    assert "\n" not in str(e.value)
    return str(e.value)


def document(labels):
    return labels if isinstance(labels, bytes) else json.dumps({"labels": labels}).encode()


@pytest.mark.parametrize("kind", ["zip", "folder"])
@pytest.mark.parametrize("separator", ["/", "\\"])
@pytest.mark.parametrize("place", ["", "data/", "x/data/"])
def test_labels_are_found_beside_the_pictures(pixels, write_dataset, out, kind, separator, place):
    names = [f"a/{i}.png" for i in range(5)]
    rows = [[name.replace("/", separator), i % 3] for i, name in enumerate(names)]
    files = {place + name: x for name, x in zip(names, pixels, strict=True)} | {f"{place}dataset.json": document(rows)}
    source = write_dataset(files, kind=kind)
    expected = np.eye(3)[[0, 1, 2, 0, 1]]
    np.testing.assert_array_equal(ImageDataset(source, use_labels=True).labels, expected)
    assert convert_dataset(source, out, 16).c_dim == 3
    np.testing.assert_array_equal(ImageDataset(out, use_labels=True).labels, expected)


def test_names_of_a_zip_with_backslashes_match_labels_with_slashes(pixels, tmp_path, out):
    source = tmp_path / "s.zip"
    with zipfile.ZipFile(source, "w") as archive:
        for i in range(2):
            archive.writestr(f"data\\{i}.png", encoded(pixels[i]))
        archive.writestr("data\\dataset.json", document([["0.png", 4], ["./1.png", 2]]))
    convert_dataset(source, out, 16)
    assert [label for _, label in labels_of(out)] == [4, 2]


@both_readers
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["0.png", 0], ["0.png", 2], ["1.png", 1]], "two labels for '0.png'"),
        ([["0.png", 0], [".\\0.png", 0], ["1.png", 1]], "two labels for '0.png'"),
        ([["0.png", 0], ["1.png", None]], "that of '1.png' is not"),
        ([["0.png", 0], ["1.png", True]], "that of '1.png' is not"),
        ([["0.png", 0], ["1.png", 65536]], "that of '1.png' is not"),
        ([["0.png", 0], ["1.png", 10**30]], "that of '1.png' is not"),
        ([["0.png", 0], ["1.png", [0.5]]], "of two kinds"),
        ([["0.png", [0, 1]], ["1.png", [1]]], "that of '1.png' is not"),
        ([["0.png", [0.5]], ["1.png", [1e39]]], "that of '1.png' is not"),
        ([["0.png", [[1]]], ["1.png", [[1]]]], "that of '0.png' is not"),
        ([["0.png", 1]], "no labels for '1.png'"),
        (b'{"labels": [["0.png", 1e999], ["1.png", 2]]}', "dataset.json"),
        (b'{"labels": [["0.png", [1e999]], ["1.png", [2]]]}', "dataset.json"),
        (b'{"labels": [["0.png", ' + b"9" * 400 + b'], ["1.png", 2]]}', "more than 40 digits"),
        (b"[" * 100_000, "nested more than"),
        (b'{"labels": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, "nested more than"),
        (b'{"labels": [["0.png"], ["1.png"]]}', "dataset.json"),
        (b'{"labels": [["0.png", 0, 0], ["1.png", 1, 1]]}', "dataset.json"),
        (b'{"labels": {"0.png": 1, "1.png": 2}}', "dataset.json"),
        (b"{}", "labels"),
        (b"\xff\xfe", "dataset.json"),
        (b'{"labels": [' + b'["x",0],' * 1_300_000 + b'["0.png",0],["1.png",0]]}', "dataset.json"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_labels_without_a_meaning_are_refused(pixels, write_dataset, out, read, labels, message):
    source = write_dataset({f"{i}.png": pixels[i] for i in range(2)} | {"dataset.json": document(labels)}, kind="folder")
    assert message in refusal(read, source, out)
    assert not out.exists()


@both_readers
def test_labels_in_several_folders_are_refused(pixels, write_dataset, out, read):
    files = {f"{d}/0.png": pixels[0] for d in "ab"} | {f"{d}/dataset.json": document([["0.png", 1]]) for d in "ab"}
    assert "several dataset.json" in refusal(read, write_dataset(files), out)


@pytest.mark.parametrize("labels", [None, b'{"labels": null}'])
def test_absent_labels_are_said_to_be_absent(pixels, write_dataset, out, labels):
    source = write_dataset({"0.png": pixels[0]} | ({} if labels is None else {"dataset.json": labels}))
    message = refusal(READERS["training"], source, out)
    assert "has no labels" in message
    assert ("is missing" if labels is None else "says null") in message
    assert convert_dataset(source, out, 16).c_dim == 0
    assert labels_of(out) is None


def test_vectors_keep_their_digits(pixels, write_dataset, out):
    rows = [[f"{i}.png", [0.1 * i, 1 / 3]] for i in range(2)]
    convert_dataset(write_dataset({f"{i}.png": pixels[i] for i in range(2)}, rows), out, 16)
    assert [label for _, label in labels_of(out)] == [label for _, label in rows]


@both_readers
@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_the_length_of_the_document_does_not_grow_with_a_few_files(pixels, write_dataset, out, read, kind, monkeypatch):
    """Blanks are packed a thousand times. A document of blanks could have some kB for each empty picture."""
    monkeypatch.setattr(labels_module, "MAX_BYTES", 100_000)
    rows = document([[f"{i}.png", i] for i in range(2)])
    images = {f"{i}.png": pixels[i] for i in range(2)}
    more = {f"{i}.txt": np.random.default_rng(i).bytes(100) for i in range(100)}  # files that are no pictures, too
    fine = write_dataset(images | more | {"dataset.json": rows.ljust(100_000)}, kind=kind, name="fine")
    read(fine, out)
    out.unlink(missing_ok=True)
    long = write_dataset(images | more | {"dataset.json": rows.ljust(100_001)}, kind=kind, name="long")
    message = refusal(read, long, out)
    assert "dataset.json" in message
    assert "are read" in message or "100,000 bytes" in message


def test_a_row_for_each_of_many_files_is_read(pixels, write_dataset, monkeypatch):
    monkeypatch.setattr(labels_module, "MAX_BYTES", 100)
    names = [f"{i:030d}.png" for i in range(40)]
    rows = [[name, i] for i, name in enumerate(names)]
    source = write_dataset(dict.fromkeys(names, pixels[0]) | {"dataset.json": document(rows)})
    assert len(document(rows)) > 100
    np.testing.assert_array_equal(ImageDataset(source, use_labels=True).labels, np.eye(40))
