"""Only the pinned files of ONNX Runtime Web get into a page, wherever they come from."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import pytest

from stylert.core.errors import BackendError, InputError
from stylert.runtime.web import browser_runtime
from stylert.runtime.web.browser_runtime import PACKAGE, VERSION, RuntimeFile, runtime_files

CONTENTS = {"a.mjs": b"export {};", "b.wasm": b"\0asm"}


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small package, which is the pinned one in the test."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as package:
        for name, content in CONTENTS.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))
    files = tuple(
        RuntimeFile(name, name.replace(".mjs", ".js"), hashlib.sha256(content).hexdigest())
        for name, content in CONTENTS.items()
    )
    monkeypatch.setattr(browser_runtime, "RUNTIME_FILES", {"wasm": files})
    monkeypatch.setattr(browser_runtime, "ARCHIVE_SHA512", hashlib.sha512(file.getvalue()).hexdigest())
    return file.getvalue()


@pytest.fixture
def npm(archive: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A program in place of npm that packs what lies in `packed.tgz`, and writes a line for each call. The cache is empty."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (tmp_path / "packed.tgz").write_bytes(archive)
    program = programs / "npm"
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nfor folder; do :; done\ncp {tmp_path}/packed.tgz "$folder/package.tgz"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_a_file_and_a_folder_give_the_same_files(archive: bytes, tmp_path: Path) -> None:
    (tmp_path / "package.tgz").write_bytes(archive)
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        package.extractall(tmp_path, filter="data")
    expected = {"a.js": CONTENTS["a.mjs"], "b.wasm": CONTENTS["b.wasm"]}
    assert runtime_files(("wasm",), tmp_path / "package.tgz") == expected
    assert runtime_files(("wasm",), tmp_path / "package") == expected


def test_npm_is_asked_once_and_then_the_cache(npm: Path) -> None:
    for _ in range(2):
        assert runtime_files(("wasm",))["b.wasm"] == CONTENTS["b.wasm"]
    assert len((npm / "calls").read_text().splitlines()) == 1
    assert f"pack {PACKAGE}@{VERSION} --ignore-scripts" in (npm / "calls").read_text()


def test_a_damaged_cache_is_loaded_again(npm: Path) -> None:
    runtime_files(("wasm",))
    (kept,) = (npm / "cache" / "stylert").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    assert runtime_files(("wasm",))["b.wasm"] == CONTENTS["b.wasm"]
    assert len((npm / "calls").read_text().splitlines()) == 2


def test_another_package_from_npm_is_refused_and_not_kept(npm: Path) -> None:
    (npm / "packed.tgz").write_bytes(b"another")
    with pytest.raises(BackendError, match="npm gave another file"):
        runtime_files(("wasm",))
    assert not (npm / "cache").exists()


def test_a_failure_of_npm_is_told_with_its_reason(npm: Path) -> None:
    (npm / "programs" / "npm").write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    with pytest.raises(BackendError, match=r"npm error code ENOTFOUND; give the package with --runtime-from"):
        runtime_files(("wasm",))


def test_a_machine_without_npm_gets_advice(npm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(npm / "nothing"))
    with pytest.raises(BackendError, match=r"not installed; install it, or give the package with --runtime-from: npm pack"):
        runtime_files(("wasm",))


@pytest.mark.parametrize("change", ["archive", "folder", "missing"])
def test_other_bytes_are_refused(archive: bytes, tmp_path: Path, change: str) -> None:
    given = tmp_path / "package"
    if change == "archive":
        given.write_bytes(archive + b"\0")
    else:
        (given / "dist").mkdir(parents=True)
        for name, content in CONTENTS.items():
            (given / "dist" / name).write_bytes(content + b" " if name == "a.mjs" else content)
        if change == "missing":
            shutil.rmtree(given / "dist")
    with pytest.raises(InputError, match=f"{PACKAGE} {VERSION}"):
        runtime_files(("wasm",), given)
