"""Verification passes what is right, fails what is wrong, and says against what it compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.export.pipeline import export_bundle
from stylert.export.verify import IDENTICAL_DB, psnr, verify
from stylert.runtime.bundle import Bundle, file_entries
from stylert.runtime.errors import InputError
from stylert.train.checkpoint import read_generator, write_generator


def test_every_backend_and_precision_meets_the_bundles_thresholds(checkpoint: Path, bundle: Bundle) -> None:
    rows = verify(bundle, against=checkpoint, seeds=10)
    assert {(r.backend, r.precision) for r in rows} == {(b, p) for b in ("onnxruntime", "openvino") for p in ("fp32", "int8")}
    assert all(r.passed for r in rows), rows
    assert {r.reference for r in rows} == {"PyTorch float32"}


@pytest.mark.parametrize("options", [{"noise": "input"}, {"noise": "none"}, {"output": "float"}])
def test_other_contracts_verify_too(make_checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, str]) -> None:
    checkpoint = make_checkpoint(c_dim=3)
    rows = verify(export_bundle(checkpoint, tmp_path / "b", **options), against=checkpoint, seeds=5)  # type: ignore[arg-type]
    assert all(r.passed for r in rows), rows


@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet"])
def test_every_architecture_verifies_in_both_precisions(
    make_checkpoint: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    checkpoint = make_checkpoint(architecture=architecture, conv_clamp=2.0)
    rows = verify(export_bundle(checkpoint, tmp_path / "b"), against=checkpoint, seeds=5)
    assert len(rows) == 4
    assert all(r.psnr_db > (60 if r.precision == "fp32" else 18) for r in rows), rows


def test_without_a_checkpoint_the_float_network_is_the_reference(bundle: Bundle) -> None:
    rows = verify(bundle, seeds=4)
    assert ("onnxruntime", "fp32") not in {(r.backend, r.precision) for r in rows}
    assert all(r.passed and "ONNX Runtime" in r.reference for r in rows)


def test_a_network_of_other_weights_fails(checkpoint: Path, bundle: Bundle, tmp_path: Path) -> None:
    weights = read_generator(checkpoint)
    weights.arrays["synthesis.b16.conv1.bias"] += 0.5
    write_generator(tmp_path / "other.safetensors", weights.config, weights.arrays)
    wrong = export_bundle(tmp_path / "other.safetensors", tmp_path / "b", ["fp32"])
    manifest = json.loads((wrong.path / "bundle.json").read_text())
    manifest["provenance"]["checkpoint_sha256"] = bundle.provenance["checkpoint_sha256"]
    manifest["files"] = {n: vars(f) for n, f in file_entries(wrong.path, list(wrong.files)).items()}
    (wrong.path / "bundle.json").write_text(json.dumps(manifest))
    assert not any(r.passed for r in verify(Bundle.load(wrong.path), against=checkpoint, seeds=4))


def test_another_checkpoint_than_the_bundles_is_refused(
    bundle: Bundle, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="not the checkpoint"):
        verify(bundle, against=make_checkpoint())
    with pytest.raises(InputError, match="does not exist"):
        verify(bundle, against=tmp_path / "nowhere")


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_psnr_is_that_of_a_uniform_error(error: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256 - error, (5, 4, 3), dtype=np.uint8)
    assert psnr(image + np.uint8(error), image) == pytest.approx(20 * np.log10(255 / error))
    assert psnr(image, image) == IDENTICAL_DB
