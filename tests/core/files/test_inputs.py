"""Only regular files of a bounded size are opened. Devices, pipes and folders are refused at once, in one line."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from stylert.core.errors import DataError
from stylert.core.files.inputs import open_file, read_file, stored_bytes


def refusal(path: str | Path) -> str:
    with pytest.raises(DataError) as e:
        read_file(path, DataError, max_bytes=10, kind="file")
    assert str(e.value).startswith("file ")
    assert "\n" not in str(e.value)
    return str(e.value)


def test_a_regular_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "b").symlink_to("a")
    for name in ("a", "b"):
        assert read_file(tmp_path / name, DataError, max_bytes=10) == b"0123456789"
        with open_file(tmp_path / name, DataError, max_bytes=10) as file:
            assert file.read(3) == b"012"


def test_other_things_are_refused_without_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # to open it would wait for a writer without end
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(tmp_path / "socket"))
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(bytes(11))
    (tmp_path / "to zero").symlink_to("/dev/zero")
    for name in ("pipe", "socket", "/dev/zero", "to zero"):
        assert "is not a regular file" in refusal(tmp_path / name)
    server.close()
    assert "is a folder" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "nothing")
    assert "larger than 10 bytes" in refusal(tmp_path / "large")
    assert "cannot be read" in refusal(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / ("x" * 1000))
    with pytest.raises(DataError, match=r"^a picture is named by a path, not 'a.x00b'$"):
        read_file("a\0b", DataError, max_bytes=10, kind="picture")


def test_bytes_are_counted_between_holes(tmp_path):
    path, part = tmp_path / "x", 2**20  # a multiple of the blocks of file systems
    with open(path, "wb") as file:
        for i in (1, 4, 5, 9):
            file.seek(i * part)
            file.write(bytes([i]) * part)
        file.truncate(20 * part)
    with open(path, "rb") as file:
        assert file.read(3) == bytes(3)
        assert stored_bytes(file) == 4 * part
        assert file.tell() == 3
        assert file.read() == path.read_bytes()[3:]
    path.write_bytes(b"abc")
    with open(path, "rb") as file:
        assert stored_bytes(file) == 3
    path.write_bytes(b"")
    with open(path, "rb") as file:
        assert stored_bytes(file) == 0
