"""Verification passes right networks, fails wrong ones, and names its reference."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stylert.core.errors import InputError
from stylert.core.images.similarity import IDENTICAL_DB, psnr
from stylert.export.perceptual_accuracy import perceptual_distance
from stylert.export.pipeline import export_bundle
from stylert.export.verify import AMPLIFICATION, _side_by_side, verify
from stylert.models.checkpoint import read_generator, write_generator
from stylert.runtime.bundle import Bundle
from stylert.runtime.bundle_files import file_entries


def test_every_backend_and_precision_meets_the_bundles_thresholds(checkpoint: Path, bundle: Bundle) -> None:
    rows = verify(bundle, against=checkpoint, backends=["onnxruntime", "openvino"], seeds=10)
    networks = {(b, p) for b in ("onnxruntime", "openvino") for p in ("fp32", "int8")}
    assert {(r.backend, r.precision) for r in rows} == networks | {("openvino-no-vnni", "int8")}
    assert all(r.passed for r in rows), rows
    assert {r.reference for r in rows} == {"PyTorch float32"}


def test_float32_is_nearer_than_8_bits_by_every_measure(checkpoint: Path, bundle: Bundle, tmp_path: Path) -> None:
    rows = {r.precision: r for r in verify(bundle, checkpoint, ["onnxruntime"], seeds=6, pictures=tmp_path)}
    exact, rounded = rows["fp32"], rows["int8"]
    assert exact.psnr_db > rounded.psnr_db
    assert 1 >= exact.ssim > rounded.ssim > 0
    assert exact.off_share <= rounded.off_share <= 1
    assert exact.perceptual is not None
    assert rounded.perceptual is not None
    assert 0 <= exact.perceptual < rounded.perceptual
    assert exact.worst_seeds[0] == exact.worst_seed
    assert len(set(rounded.worst_seeds)) == 4
    for precision in ("fp32", "int8"):
        with Image.open(tmp_path / f"worst.{precision}.onnxruntime.png") as picture:
            assert picture.size == (3 * 16, 4 * 16)


def test_pictures_show_reference_image_and_amplified_difference(rng: np.random.Generator) -> None:
    reference = rng.integers(0, 200, (3, 4, 5, 3), dtype=np.uint8)
    images = reference + np.uint8(2)
    picture = _side_by_side(images, reference, [2, 0])
    assert picture.shape == (8, 15, 3)
    assert (picture[:4, :5] == reference[2]).all()
    assert (picture[4:, 5:10] == images[0]).all()
    assert (picture[:, 10:] == 2 * AMPLIFICATION).all()


def test_perceptual_distance_is_none_without_its_extra(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
    far, near = perceptual_distance(list(a), list(b)), perceptual_distance(list(a), list(a))
    assert far is not None
    assert near == pytest.approx(0, abs=1e-6)
    assert far > near
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    assert perceptual_distance(list(a), list(b)) is None


@pytest.mark.long
@pytest.mark.parametrize("options", [{"noise": "input"}, {"noise": "none"}, {"output": "float"}])
def test_bundles_with_other_inputs_and_outputs_verify(
    make_checkpoint: Callable[..., Path], tmp_path: Path, options: dict[str, str]
) -> None:
    checkpoint = make_checkpoint(c_dim=3)
    rows = verify(export_bundle(checkpoint, tmp_path / "b", **options), against=checkpoint, seeds=5)  # type: ignore[arg-type]
    assert all(r.passed for r in rows), rows


@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet"])
def test_every_architecture_verifies_in_both_precisions(
    make_checkpoint: Callable[..., Path], tmp_path: Path, architecture: str
) -> None:
    checkpoint = make_checkpoint(architecture=architecture, conv_clamp=2.0)
    backends = ["onnxruntime", "openvino"]
    rows = verify(export_bundle(checkpoint, tmp_path / "b"), against=checkpoint, backends=backends, seeds=5)
    assert len(rows) == 5
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


def test_a_checkpoint_of_another_bundle_is_refused(
    bundle: Bundle, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="not the checkpoint"):
        verify(bundle, against=make_checkpoint(another=True))
    with pytest.raises(InputError, match="does not exist"):
        verify(bundle, against=tmp_path / "nowhere")


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_psnr_of_a_uniform_error_follows_its_formula(error: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256 - error, (5, 4, 3), dtype=np.uint8)
    assert psnr(image + np.uint8(error), image) == pytest.approx(20 * np.log10(255 / error))
    assert psnr(image, image) == IDENTICAL_DB
