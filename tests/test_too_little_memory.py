"""Too little memory is told as such. It is not a damaged file."""

from __future__ import annotations

import ast
import sys
import zipfile
from pathlib import Path

import pytest

from stylert.core.errors import BackendError, DataError, OutOfMemory
from stylert.models.importers.import_checkpoint import import_checkpoint
from stylert.runtime.backends import onnxruntime
from stylert.runtime.bundle import Bundle
from stylert.runtime.network_files import parsed
from stylert.train.data.image_files import open_files
from tests.core.files.test_one_rule import sources

#: Errors that blame what the user gave.
BLAMING = ("BundleError", "CheckpointError", "DataError", "InputError", "PictureError")


def fail(*_: object, **__: object) -> None:
    raise MemoryError


def test_a_network_that_does_not_fit_is_not_blamed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnx.load", fail)
    with pytest.raises(BackendError, match=r"not enough memory to read .*mapping\.onnx"):
        parsed(bundle.path / "mapping.onnx")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("Exception during initialization: std::bad_alloc")])
def test_a_session_that_does_not_fit_is_not_blamed_on_the_network(
    error: Exception, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(onnxruntime.library(), "InferenceSession", refuse)
    with pytest.raises(BackendError, match=r"not enough memory to load .*mapping\.onnx"):
        onnxruntime.open_session(bundle.path / "mapping.onnx", onnxruntime.session_options(1))


def test_a_zip_that_does_not_fit_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"x")
    files = open_files(tmp_path / "a.zip")
    monkeypatch.setattr(zipfile.ZipFile, "open", fail)
    with pytest.raises(DataError, match="there is too little memory for it"):
        files.read_image("a.png")
    monkeypatch.setattr(zipfile, "ZipFile", fail)
    with pytest.raises(DataError, match="there is too little memory for the list of its files"):
        open_files(tmp_path / "a.zip")


def test_a_checkpoint_that_does_not_fit_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pkl").write_bytes(b"x")
    monkeypatch.setattr(sys.modules[import_checkpoint.__module__], "read_container", fail)
    with pytest.raises(OutOfMemory, match=r"cannot import .*a\.pkl: not enough memory"):
        import_checkpoint(tmp_path / "a.pkl")


def test_no_handler_of_all_errors_takes_too_little_memory_for_a_mistake() -> None:
    faults = []
    for file, tree in sources():
        for block in (node for node in ast.walk(tree) if isinstance(node, ast.Try)):
            is_told = False
            for handler in block.handlers:
                kind, text = ast.unparse(handler.type) if handler.type else "Exception", ast.unparse(handler)
                is_told = is_told or "MemoryError" in text or "is_out_of_memory" in text
                if kind in ("Exception", "BaseException") and not is_told and any(f"raise {name}(" in text for name in BLAMING):
                    faults.append(f"{file}:{handler.lineno}")
    assert faults == []
