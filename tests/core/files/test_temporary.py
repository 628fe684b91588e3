"""A temporary folder has our name, is private, and goes: at the end, or with the next process after a kill."""

from __future__ import annotations

import ast
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from stylert.core.errors import OutputError
from stylert.core.files.temporary import temporary_folder
from tests.core.files.test_one_rule import calls, sources
from tests.faults import forget_swept_folders

KILLED = """
import os, signal
from stylert.core.files.temporary import temporary_folder
with temporary_folder("tune") as folder:
    (folder / "network.onnx").write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's folder for temporary files, of this test alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_private_and_goes_at_the_end_also_after_an_error(place: Path) -> None:
    with pytest.raises(RuntimeError), temporary_folder("tune") as folder:
        assert folder.parent == place
        assert "stylert-tune" in folder.name
        assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0
        (folder / "below").mkdir()
        (folder / "below" / "file").touch()
        raise RuntimeError
    assert os.listdir(place) == []


def test_the_next_process_removes_what_a_killed_one_left_and_nothing_else(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "tmpabcdefgh").mkdir()
    (place / ".stylert-notes").touch()
    with temporary_folder("mnn") as running:
        assert subprocess.run([sys.executable, "-c", KILLED]).returncode == -signal.SIGKILL
        assert len(os.listdir(place)) == 4
        forget_swept_folders(monkeypatch)
        with temporary_folder("tune"):
            assert running.is_dir(), "its process runs"
    assert sorted(os.listdir(place)) == [".stylert-notes", "tmpabcdefgh"]


def test_a_place_that_cannot_be_written_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(place / "absent"))
    with pytest.raises(OutputError, match=r"cannot make a temporary folder: .*No such file"), temporary_folder("tune"):
        pass


def test_an_error_within_the_block_names_no_hidden_folder(place: Path) -> None:
    with (
        pytest.raises(OutputError, match=rf"^cannot write {place}/stylert-mnn/plain: full$"),
        temporary_folder("mnn") as folder,
    ):
        raise OutputError(f"cannot write {folder / 'plain'}: full")


def test_every_temporary_folder_of_the_package_is_one_of_these() -> None:
    faults = [
        f"{file}:{call.lineno}"
        for file, tree in sources()
        for _, _, call in calls(tree)
        if ast.unparse(call.func)
        in ("tempfile.TemporaryDirectory", "tempfile.mkdtemp", "tempfile.mkstemp", "tempfile.NamedTemporaryFile")
    ]
    assert faults == []
