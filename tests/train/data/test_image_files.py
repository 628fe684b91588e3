"""Training and the dataset tool read zips and folders within the same bounds."""

import errno
import os
import stat
import struct
import zipfile

import numpy as np
import pytest

from stylert.core.errors import DataError
from stylert.train.data import image_files, zip_members
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset
from stylert.train.data.image_files import open_files, refuse_run_among_images
from tests.train.data.sources.source_files import encoded

READERS = {
    "training": lambda source, out: ImageDataset(source),
    "tool": lambda source, out: convert_dataset(source, out, 16),
}
both_readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


def refusal(read, source, out):
    with pytest.raises(DataError) as e:
        read(source, out)
    assert "\n" not in str(e.value)
    assert not out.exists()
    return str(e.value)


def zip_of(path, files, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return path


@both_readers
@pytest.mark.parametrize("name", ["../a.png", "/a.png", "x/../../a.png", "..\\a.png", "C:/a.png"])
def test_names_that_lead_out_of_an_archive_are_refused(pixels, tmp_path, out, read, name):
    assert "leads out" in refusal(read, zip_of(tmp_path / "s.zip", [(name, encoded(pixels[0]))]), out)


@both_readers
def test_links_are_refused(pixels, tmp_path, out, read):
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(pixels[0]))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").symlink_to(secret)
    assert "link that leads out" in refusal(read, tmp_path / "in", out)
    info = zipfile.ZipInfo("a.png")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "is a link" in refusal(read, zip_of(tmp_path / "s.zip", [(info, "secret.png")]), out)


@both_readers
def test_a_member_that_unpacks_to_far_more_is_refused(tmp_path, out, read):
    bomb = zip_of(tmp_path / "bomb.zip", [("a.png", bytes(10_000_000))], compression=zipfile.ZIP_DEFLATED)
    assert "times its size" in refusal(read, bomb, out)


@both_readers
@pytest.mark.parametrize("kind", ["zip", "folder"])
def test_a_large_picture_file_is_refused(write_dataset, out, read, kind, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_BYTES", 1000)
    message = refusal(read, write_dataset({"a.png": bytes(1001)}, kind=kind), out)
    assert "a.png" in message
    assert "1,000 bytes" in message or "MiB" in message


@both_readers
@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_unpack_without_a_bound_are_refused(pixels, tmp_path, out, read, method):
    source = zip_of(tmp_path / "s.zip", [("a.png", encoded(pixels[0]))], compression=method)
    assert "packed with method" in refusal(read, source, out)


@both_readers
def test_a_list_of_too_many_files_is_refused_before_it_is_taken_apart(tmp_path, out, read, monkeypatch):
    """The number that the zip states of them is not believed. An object of `zipfile` takes ten times the bytes of a file's record."""
    monkeypatch.setattr(zip_members, "MAX_FILES", 100)
    source = zip_of(tmp_path / "s.zip", [(f"{i}.png", b"") for i in range(101)])
    data = bytearray(source.read_bytes())
    end = data.rindex(b"PK\5\6")
    data[end + 8 : end + 12] = bytes((1, 0, 1, 0))
    source.write_bytes(data)
    monkeypatch.setattr(zipfile, "ZipInfo", None)  # no file of the list becomes an object
    assert "it has 101 files, and a zip of at most 100 is read" in refusal(read, source, out)
    monkeypatch.setattr(zip_members, "MAX_DIRECTORY", 1000)
    assert "the list of its files has" in refusal(read, source, out)


@both_readers
@pytest.mark.parametrize(("files", "record", "is_read"), [(1_281_167, 46 + 56 + 24, True), (1_350_000, 46 + 199, False)])
def test_long_names_of_a_million_files_are_refused_before_they_are_read(tmp_path, out, read, files, record, is_read):
    """The first has the size of ImageNet's list, with its long names and the dates that zip adds. Only the sizes are real here."""
    size = files * record
    end64 = b"PK\6\6" + struct.pack("<Q2H2I4Q", 44, 45, 45, 0, 0, files, files, size, 0)
    locator = b"PK\6\7" + struct.pack("<IQI", 0, size, 1)
    end = b"PK\5\6" + struct.pack("<4H2IH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    with open(tmp_path / "s.zip", "wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(end64 + locator + end)
    reason = "Bad magic number" if is_read else "the list of its files has 315 MiB, and at most 192 are read"
    assert reason in refusal(read, tmp_path / "s.zip", out)


@both_readers
def test_two_files_of_one_name_are_refused(pixels, tmp_path, out, read):
    files = [("x/a.png", encoded(pixels[0])), ("x\\a.png", encoded(pixels[1]))]
    assert "two files with the name 'x/a.png'" in refusal(read, zip_of(tmp_path / "s.zip", files), out)


@both_readers
def test_devices_and_pipes_are_not_opened(tmp_path, out, read):
    assert "not a regular file" in refusal(read, "/dev/zero", out)
    for name in ("pipe.zip", "train-images-idx3-ubyte", "cifar-10-python.tar.gz", "x.parquet"):
        os.mkfifo(tmp_path / name)
        assert "not a regular file" in refusal(read, tmp_path / name, out)


@both_readers
def test_a_path_that_is_too_long_is_one_line(out, read):
    refusal(read, "x" * 5000, out)
    refusal(read, "a\0b", out)


@both_readers
def test_a_folder_that_cannot_be_read_as_a_whole_is_refused(pixels, tmp_path, out, read, monkeypatch):
    """No picture is left out in silence. Root may read every folder, so the refusal of the system is made up."""
    (tmp_path / "images" / "closed").mkdir(parents=True)
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "cannot be read as a whole" in refusal(read, tmp_path / "images", out)


def test_folders_written_with_backslashes_and_copies_of_macos_are_understood(pixels, tmp_path):
    names = ["a\\0.png", "a/1.png", "__MACOSX/a/._1.png", "a/._0.png", "a\\"]
    files = zip_of(tmp_path / "s.zip", [(n, b"") for n in names])
    with zipfile.ZipFile(files, "a") as archive:
        archive.writestr("b.txt", b"")
    assert open_files(files).images == ["a/0.png", "a/1.png"]


def test_a_damaged_member_is_a_damaged_picture(pixels, tmp_path, out):
    source = zip_of(tmp_path / "s.zip", [(f"{i}.png", encoded(pixels[i])) for i in range(2)])
    data = bytearray(source.read_bytes())
    data[data.index(b"IDAT") + 10] ^= 1  # the checksum of the zip differs
    source.write_bytes(data)
    assert "'0.png' cannot be decoded" in refusal(READERS["training"], source, out)
    count, skipped, _ = convert_dataset(source, out, 16, skip_corrupt=True)
    assert count == 1
    assert skipped[0].startswith("0.png (")


def test_a_run_is_not_written_among_its_images(tmp_path, write_dataset):
    images = write_dataset({"a.png": np.zeros((4, 4), np.uint8)}, kind="folder")
    (tmp_path / "link").symlink_to(images)
    for run in (images, images / "run", tmp_path / "link" / "run", images / ".." / images.name):
        with pytest.raises(DataError, match="among the images"):
            refuse_run_among_images(images, run)
    for data, run in ((images, tmp_path / "run"), (images / "a.png", images), (images / "below", images)):
        refuse_run_among_images(data, run)
