"""Exporting: reproducible, whole or not at all, and refusing what it cannot use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stylert.export.pipeline import export_bundle
from stylert.runtime.bundle import Bundle, sha256_of
from stylert.runtime.errors import CheckpointError, InputError, OutputError


def test_the_same_checkpoint_gives_the_same_bytes(checkpoint: Path, bundle: Bundle, tmp_path: Path) -> None:
    again = export_bundle(checkpoint, tmp_path / "again")
    for file in sorted(bundle.path.glob("*.*")):
        assert sha256_of(file) == sha256_of(again.path / file.name), file.name


def test_the_manifest_says_where_the_bundle_comes_from(checkpoint: Path, bundle: Bundle) -> None:
    assert bundle.provenance["checkpoint_sha256"] == sha256_of(checkpoint)
    assert bundle.model["resolution"] == 16
    assert set(bundle.files) == {"mapping.onnx", "synthesis.fp32.onnx", "synthesis.int8.onnx"}


def test_an_older_bundle_is_replaced_whole(checkpoint: Path, tmp_path: Path) -> None:
    export_bundle(checkpoint, tmp_path / "b")
    export_bundle(checkpoint, tmp_path / "b", ["fp32"])
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["bundle.json", "mapping.onnx", "synthesis.fp32.onnx"]


def test_a_failed_export_leaves_the_older_bundle_as_it_was(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = export_bundle(checkpoint, tmp_path / "b")
    monkeypatch.setattr("stylert.export.pipeline.calibrate", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_bundle(checkpoint, tmp_path / "b")
    assert Bundle.load(tmp_path / "b") == before
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_folder_that_is_not_a_bundle_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("precious")
    with pytest.raises(OutputError, match="not a bundle"):
        export_bundle(checkpoint, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1").read_text() == "precious"


@pytest.mark.parametrize("precisions", [[], ["fp33"], ["fp32", "fp32"], [""]])
def test_unknown_or_repeated_precisions_are_refused(checkpoint: Path, tmp_path: Path, precisions: list[str]) -> None:
    with pytest.raises(InputError):
        export_bundle(checkpoint, tmp_path / "b", precisions)
    assert not (tmp_path / "b").exists()


def test_a_damaged_checkpoint_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "half.safetensors").write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="whole"):
        export_bundle(tmp_path / "half.safetensors", tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["half.safetensors"]


def test_conditional_and_float_bundles_carry_their_contract(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    b = export_bundle(make_checkpoint(c_dim=5), tmp_path / "b", ["fp32"], noise="input", output="float")
    assert (b.output, b.noise, b.num_ws, b.model["c_dim"]) == ("float", "input", 6, 5)
    assert len(b.noise_inputs) == 5
