"""The sha256 of files agrees with `sha256sum`, and what is no readable file is one line."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from stylert.core.errors import BundleError, InputError
from stylert.core.files.digests import check_sha256, sha256_of


@pytest.mark.parametrize("size", [0, 1, 2**18, 2**18 + 1, 3_000_000])
def test_the_sha256_is_that_of_the_system(size: int, tmp_path: Path, rng: np.random.Generator) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(rng.bytes(size))
    link.symlink_to(file)
    digest = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
    assert sha256_of(file) == sha256_of(link) == digest
    check_sha256(digest)


def test_no_pipe_or_folder_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(InputError, match=rf"file {path} (is|does) "):
            sha256_of(path)


@pytest.mark.parametrize("function", ["open", "read"])
def test_a_file_that_cannot_be_read_is_refused_by_the_given_error(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    (tmp_path / "file").write_bytes(b"content")
    place = "stylert.core.files.inputs.open" if function == "open" else "hashlib.file_digest"
    monkeypatch.setattr(place, refuse, raising=False)
    with pytest.raises(BundleError, match=r"engine file .*file cannot be read: Input/output error"):
        sha256_of(tmp_path / "file", BundleError, "engine file")


@pytest.mark.parametrize("text", ["", "a" * 63, "a" * 65, "A" * 64, "g" * 64, "a" * 64 + "\n"])
def test_other_texts_are_no_sha256(text: str) -> None:
    with pytest.raises(ValueError, match="is not a sha256"):
        check_sha256(text)
