"""CIFAR is read without unpickling, from Python 2 and 3, and hostile pickles run no code."""

import gzip
import io
import pickle
import pickletools
import struct
import tarfile

import numpy as np
import pytest

from stylert.core.errors import DataError
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset
from stylert.train.data.sources.cifar import OPERATIONS_OF_PYTHON_2
from tests.train.data.sources.source_files import cifar_tar, labels_of, python2_pickle, refusal


@pytest.mark.parametrize("writer", ["python 2", "python 3"])
def test_cifar_is_read_from_its_pickles_without_unpickling(rng, tmp_path, out, writer, monkeypatch):
    images = rng.integers(0, 256, (7, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, 7).tolist()
    rows = images.transpose(0, 3, 1, 2).reshape(7, -1)
    members = {"data_batch_2": (4, 7), "data_batch_1": (0, 4), "readme.html": None}
    packed = {}
    for name, rows_of_batch in members.items():
        batch = (
            {"batch_label": "x", "labels": labels[slice(*rows_of_batch)], "data": rows[slice(*rows_of_batch)]}
            if rows_of_batch
            else None
        )
        if rows_of_batch is None:
            packed[name] = b"<html>"
        elif writer == "python 2":
            packed[name] = b"\x80\x02" + python2_pickle(batch) + b"."
            assert pickle.loads(packed[name], encoding="latin-1")["labels"] == batch["labels"]  # checks the writer of this test
        else:
            packed[name] = pickle.dumps(batch | {"data": np.ascontiguousarray(batch["data"])}, protocol=4)
    path = cifar_tar(tmp_path / "cifar-10-python.tar.gz", packed)
    monkeypatch.setattr(pickle, "loads", None)
    monkeypatch.setattr(pickle, "load", None)
    monkeypatch.setattr(pickle, "Unpickler", None)
    assert convert_dataset(path, out, 32) == (7, [], max(labels) + 1)
    np.testing.assert_array_equal(ImageDataset(out).images.transpose(0, 2, 3, 1), images)
    assert [label for _, label in labels_of(out)] == labels


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("form", ["call", "labels", "length", "list", "garbage", "empty"])
def test_hostile_and_damaged_batches_are_refused_and_run_no_code(tmp_path, out, capsys, form):
    rows = np.zeros((2, 3072), np.uint8)
    data = {
        "call": pickle.dumps({"data": Evil(), "labels": [1, 2]}, protocol=2),
        "labels": b"\x80\x02" + python2_pickle({"labels": [1, 999], "data": rows}) + b".",
        "length": b"\x80\x02" + python2_pickle({"labels": [1], "data": rows}) + b".",
        "list": b"\x80\x02" + python2_pickle([1, 2]) + b".",
        "garbage": b"\xff" * 100,
        "empty": b"",
    }[form]
    refusal(DataError, cifar_tar(tmp_path / "cifar-10-python.tar.gz", {"data_batch_1": data}), out, 32)
    assert capsys.readouterr().out == ""


def test_only_the_opcodes_of_python_2_strings_are_added():
    from stylert.models.importers.pickle_reader import OPERATIONS

    names = {op.code: op.name for op in pickletools.opcodes}
    assert {names[chr(code)] for code in OPERATIONS_OF_PYTHON_2.keys() - OPERATIONS.keys()} == {"SHORT_BINSTRING", "BINSTRING"}


def test_the_original_archives_are_small_enough_and_a_larger_one_is_not_unpacked(tmp_path, out):
    """CIFAR-100 has 50,000 pictures in one pickle, and with its test pictures 178 MiB. The pictures here are black."""
    batch = b"\x80\x02" + python2_pickle({"fine_labels": [7] * 50_000, "data": np.zeros((50_000, 3072), np.uint8)}) + b"."
    path = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, data in (("train", batch), ("test", bytes(10_000 * 3073))):
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert convert_dataset(path, out, 32, max_images=3).images == 3
    with gzip.open(path, "wb", 1) as file:
        file.write(bytes(193 * 2**20))
    assert "unpacks to over 192 MiB" in refusal(DataError, path, out, 32)


def test_batches_with_holes_are_refused(tmp_path, out):
    """A tar may hold a thousand files of 150 MiB in a few MiB. All of them would be kept as pictures."""
    rows = np.zeros((2000, 3072), np.uint8)
    data = b"\x80\x02" + python2_pickle({"labels": [1] * 2000, "data": rows}) + b"."
    pixels = data.index(bytes(rows.nbytes))
    head, tail = data[:pixels], data[pixels + rows.nbytes :]
    info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    info.size = len(head + tail)
    parts = f"2\n0\n{len(head)}\n{pixels + rows.nbytes}\n{len(tail)}\n".encode().ljust(512, b"\0")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(len(data))}
    info.size += len(parts)
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(parts + head + tail))
    with tarfile.open(path) as archive:  # the holes of this test are holes
        (member,) = archive
        assert archive.extractfile(member).read() == data
    assert "with holes" in refusal(DataError, path, out, 32)


def test_a_long_text_of_wide_characters_is_refused_before_it_is_decoded(tmp_path, out):
    """Python keeps four bytes for each character of a text with an emoji."""
    wide = b"a" * 2**24 + "\N{GRINNING FACE}".encode()
    data = b"\x80\x04\x8d" + struct.pack("<Q", len(wide)) + wide + b"."
    path = cifar_tar(tmp_path / "cifar-10-python.tar.gz", {"data_batch_1": data})
    assert "a text of 16 MiB with characters beyond Latin-1" in refusal(DataError, path, out, 32)
