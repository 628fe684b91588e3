"""A file or folder that replaces another one is as private as that one. A target that cannot be replaced is refused before the work."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stylert.core.errors import OutputError
from stylert.core.files.atomic import atomic_directory, atomic_file, check_writable


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_file_that_replaces_another_has_its_permissions(tmp_path: Path, mode: int) -> None:
    (tmp_path / "f").touch()
    (tmp_path / "f").chmod(mode)
    with atomic_file(tmp_path / "f") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "f").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode


def test_a_write_protected_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    (tmp_path / "f").chmod(0o444)
    with pytest.raises(OutputError, match="write-protected"):
        check_writable(tmp_path / "f")
    with pytest.raises(OutputError, match="write-protected"), atomic_file(tmp_path / "f") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "f").read_text() == "old"


def test_a_folder_that_replaces_a_private_one_is_private(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o700)
    with atomic_directory(tmp_path / "d", None) as temporary:
        (temporary / "f").touch()
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["-t tmpfs none", "--bind other"])
@pytest.mark.parametrize("place", ["d", "d/engines", "d/with space"])
def test_a_folder_in_which_a_file_system_is_mounted_is_not_replaced(tmp_path: Path, place: str, kind: str) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("this process may not mount file systems")
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "f.json").touch()
    code = f"""
from pathlib import Path
from stylert.core.errors import OutputError
from stylert.core.files.atomic import atomic_directory, check_writable
Path({place!r}, "kept").touch()
try:
    with atomic_directory("d", None):
        raise SystemExit("the work began")
except OutputError as e:
    assert "is mounted at" in str(e), e
try:
    check_writable("f.json")
    raise SystemExit("a mounted file may be replaced")
except OutputError as e:
    assert "it is mounted there" in str(e), e
assert Path({place!r}, "kept").exists() and sorted(p.name for p in Path().iterdir()) == ["d", "f.json", "other"]
"""
    command = ["unshare", "-m", "sh", "-ec", f"mount {kind} '{place}'; mount --bind f.json f.json; exec {sys.executable} -"]
    done = subprocess.run(command, cwd=tmp_path, input=code, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_cannot_be_read_as_a_whole_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read every folder, so the refusal of the system is made up."""
    (tmp_path / "d" / "private").mkdir(parents=True)
    scan = os.scandir

    def refuse(path: str) -> Any:
        if os.fspath(path).endswith("private"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OutputError, match="Permission denied"), atomic_directory(tmp_path / "d", lambda _: ()):
        pytest.fail("the work began")
    assert (tmp_path / "d" / "private").is_dir()


def test_a_write_protected_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o555)
    with pytest.raises(OutputError, match="write-protected"), atomic_directory(tmp_path / "d", None):
        pytest.fail("the work began")


def test_owner_and_group_stay(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    (tmp_path / "f").touch()
    (tmp_path / "d").mkdir()
    for name, mode in (("f", 0o664), ("d", 0o2770)):
        os.chown(tmp_path / name, 1000, 100)
        (tmp_path / name).chmod(mode)
    with atomic_file(tmp_path / "f") as temporary:
        temporary.touch()
    with atomic_directory(tmp_path / "d", None):
        pass
    umask = os.umask(0)
    os.umask(umask)
    for name, mode in (("f", 0o664), ("d", 0o2770 & ~umask)):  # a new folder is no more open than the umask says
        status = (tmp_path / name).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 100, mode)
