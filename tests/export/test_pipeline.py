"""Exporting is reproducible, writes a whole bundle or nothing, and refuses wrong requests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from stylert.core.errors import CheckpointError, InputError, OutputError
from stylert.core.files.digests import sha256_of
from stylert.core.images.similarity import psnr
from stylert.export import default_plans as defaults
from stylert.export.image_output import OutputType
from stylert.export.pipeline import export_bundle
from stylert.export.verify import Accuracy, PsnrMissed, verify
from stylert.runtime.bundle import Bundle


def test_the_same_checkpoint_gives_the_same_bytes(checkpoint: Path, bundle: Bundle, tmp_path: Path) -> None:
    again = export_bundle(checkpoint, tmp_path / "again")
    for file in sorted(bundle.path.glob("*.*")):
        assert sha256_of(file) == sha256_of(again.path / file.name), file.name


def test_the_manifest_names_the_checkpoint_and_all_files(checkpoint: Path, bundle: Bundle) -> None:
    assert bundle.provenance["checkpoint_sha256"] == sha256_of(checkpoint)
    assert bundle.model["resolution"] == 16
    assert set(bundle.files) == {
        "mapping.onnx",
        "synthesis.fp32.onnx",
        "synthesis.fp32.openvino.onnx",
        "synthesis.int8.onnx",
        "synthesis.int8.openvino.onnx",
        "synthesis.int8.openvino-no-vnni.onnx",
    }


def test_a_backend_gets_its_own_file_and_every_file_makes_the_same_images(checkpoint: Path, tmp_path: Path) -> None:
    backends = ["onnxruntime", "openvino", "tensorrt-rtx"]
    bundle = export_bundle(checkpoint, tmp_path / "b", ["fp32", "fp16", "int8"], backends=backends)
    assert bundle.network("fp16", "tensorrt-rtx") == "synthesis.fp16.tensorrt-rtx.onnx"
    assert bundle.network("fp16", "onnxruntime") == bundle.precisions["fp16"].file == "synthesis.fp16.onnx"
    ws = np.random.standard_normal((8, bundle.num_ws, bundle.model["w_dim"])).astype(np.float32)

    def run(file: str) -> np.ndarray:
        return ort.InferenceSession(bundle.checked_file(file)).run(None, {"ws": ws})[0]

    exact = run("synthesis.fp32.onnx")
    for precision, entry in bundle.precisions.items():
        for file in entry.files:
            mean_psnr = np.mean([psnr(a, b) for a, b in zip(run(file), exact, strict=True)])
            assert mean_psnr > (45 if precision == "fp16" else 25), file


def test_onnx_runtimes_own_network_has_the_same_layers_in_8_bits_as_the_canonical_one(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own network has folded modulation, here from 16 px on."""
    monkeypatch.setattr(defaults, "MIN_FOLD_MODULATION_RESOLUTION", 16)
    bundle = export_bundle(checkpoint, tmp_path / "b", ["int8"], backends=["onnxruntime"], min_psnr=38, verify_seeds=4)
    entry = bundle.precisions["int8"]
    assert entry.plans == {"onnxruntime": "synthesis.int8.onnxruntime.onnx"}
    own = {n.name: n for n in onnx.load(bundle.path / entry.plans["onnxruntime"]).graph.node}
    canonical = {n.name: n for n in onnx.load(bundle.path / entry.file).graph.node}
    recipe = entry.recipe["backends"]["onnxruntime"]
    assert recipe == {k: entry.recipe[k] for k in recipe}
    for layer in ("b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"):
        in_8_bits = layer in recipe["layers"]
        assert (f"{layer}.in_q" in own) == (f"{layer}.in_q" in canonical) == in_8_bits
        assert (f"{layer}.modulated" not in own) == (in_8_bits and layer.startswith("b16"))
    assert entry.accuracy["onnxruntime"]["psnr_db"] > 30


def test_an_unknown_backend_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="abacus"):
        export_bundle(checkpoint, tmp_path / "b", backends=["abacus"])
    assert not (tmp_path / "b").exists()


def test_an_older_bundle_is_replaced_whole(checkpoint: Path, tmp_path: Path) -> None:
    export_bundle(checkpoint, tmp_path / "b")
    export_bundle(checkpoint, tmp_path / "b", ["fp32"])
    files = ["bundle.json", "mapping.onnx", "synthesis.fp32.onnx", "synthesis.fp32.openvino.onnx"]
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == files


def test_a_failed_export_leaves_the_older_bundle_as_it_was(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = export_bundle(checkpoint, tmp_path / "b")
    monkeypatch.setattr("stylert.export.networks.stylegan2.calibrate", lambda *a: 1 / 0)
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


def test_a_network_that_somebody_has_changed_is_not_lost(checkpoint: Path, tmp_path: Path) -> None:
    """Also not a file of the user that the manifest of others lists."""
    export_bundle(checkpoint, tmp_path / "b", ["fp32"])
    (tmp_path / "b" / "mapping.onnx").write_text("precious")
    with pytest.raises(OutputError, match=r"also holds mapping\.onnx"):
        export_bundle(checkpoint, tmp_path / "b", ["fp32"])
    assert (tmp_path / "b" / "mapping.onnx").read_text() == "precious"


def test_the_folder_of_the_checkpoint_is_not_replaced(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    shutil.copy(checkpoint, folder / "model.safetensors")
    with pytest.raises(OutputError, match="an input lies in it"):
        export_bundle(folder / "model.safetensors", folder, ["fp32"], force=True)
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]


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


def test_the_manifest_describes_inputs_and_outputs(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    b = export_bundle(make_checkpoint(c_dim=5), tmp_path / "b", ["fp32"], noise="input", output="float")
    assert (b.output, b.noise, b.num_ws, b.model["c_dim"]) == ("float", "input", 6, 5)
    assert len(b.noise_inputs) == 5


@pytest.mark.long
def test_verify_seeds_add_accuracy_and_pictures_to_the_bundle(checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_bundle(checkpoint, tmp_path / "b", verify_seeds=3)
    for precision, entry in bundle.precisions.items():
        assert set(entry.accuracy) >= {"onnxruntime", "openvino"}
        for backend, accuracy in entry.accuracy.items():
            assert accuracy["seeds"] == 3
            assert accuracy["reference"] == "PyTorch float32"
            assert accuracy["psnr_db"] > (60 if precision == "fp32" else 25)
            assert (bundle.path / f"worst.{precision}.{backend}.png").is_file()
    assert bundle.checked_file("synthesis.int8.onnx").is_file()


def export_that_misses(
    monkeypatch: pytest.MonkeyPatch, missing: set[tuple[str, str]], checkpoint: Path, out: Path, precisions: list[str]
) -> PsnrMissed:
    """Export while these backends and precisions have 20 dB."""

    def worse(*arguments: Any, **options: Any) -> list[Accuracy]:
        rows = verify(*arguments, **options)
        return [replace(row, psnr_db=20.0) if (row.backend, row.precision) in missing else row for row in rows]

    monkeypatch.setattr("stylert.export.pipeline.verify", worse)
    with pytest.raises(PsnrMissed) as error:
        export_bundle(checkpoint, out, precisions, verify_seeds=2)
    assert "\n" not in str(error.value)
    return error.value


def test_a_precision_that_misses_its_psnr_on_one_backend_is_left_out_and_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = export_that_misses(monkeypatch, {("openvino", "int8")}, checkpoint, tmp_path / "b", ["fp32", "int8"])
    assert "int8 on openvino (20.00 of 33 dB)" in str(error)
    assert "onnxruntime" not in str(error)
    assert "b holds fp32 alone" in str(error)
    bundle = Bundle.load(tmp_path / "b")
    assert error.bundle == bundle
    assert set(bundle.precisions) == {"fp32"}
    assert set(bundle.files) == {path.name for path in bundle.path.glob("*.onnx")}
    assert not any("int8" in name for name in bundle.files)
    assert bundle.precision("fp32").accuracy["openvino"]["seeds"] == 2


def test_precisions_that_share_a_file_are_left_out_one_by_one(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = export_that_misses(monkeypatch, {("openvino", "bf16")}, checkpoint, tmp_path / "b", ["fp32", "bf16"]).bundle
    assert bundle is not None
    assert set(bundle.precisions) == {"fp32"}
    assert bundle.checked_file(bundle.network("fp32", "openvino")).is_file()


def test_an_export_of_which_nothing_is_left_keeps_the_older_bundle(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = export_bundle(checkpoint, tmp_path / "b", ["fp32"])
    error = export_that_misses(monkeypatch, {("onnxruntime", "int8")}, checkpoint, tmp_path / "b", ["int8"])
    assert "nothing was written" in str(error)
    assert error.bundle is None
    assert Bundle.load(tmp_path / "b") == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("output", ["uint8", "float"])
def test_networks_of_any_number_of_channels_are_exported_and_verified(
    make_checkpoint: Callable[..., Path], tmp_path: Path, channels: int, output: OutputType
) -> None:
    source = make_checkpoint(img_channels=channels, resolution=8)
    bundle = export_bundle(source, tmp_path / "b", ["fp32"], output=output, verify_seeds=2)
    accuracy = bundle.precision("fp32").accuracy["onnxruntime"]
    assert accuracy["psnr_db"] > 60
    assert (accuracy["perceptual"] is None) == (channels != 1)
    with Image.open(tmp_path / "b" / "worst.fp32.onnxruntime.png") as picture:
        assert picture.size == (3 * 8 * channels, 2 * 8)


def test_layers_stay_out_of_8_bits_to_reach_a_psnr_and_the_recipe_says_why(checkpoint: Path, tmp_path: Path) -> None:
    everything = export_bundle(checkpoint, tmp_path / "all", ["int8"], min_psnr=1.0).precision("int8")
    target = min(everything.recipe["search"]["psnr_db"] + 3, 60.0)
    entry = export_bundle(checkpoint, tmp_path / "b", ["int8"], min_psnr=target).precision("int8")
    reasons = entry.recipe["higher_precision"]
    assert entry.min_psnr_db == target
    assert entry.recipe["search"]["psnr_db"] >= target
    assert any("dB" in reason for reason in reasons.values())
    assert "4 px" in reasons["b4.conv1"]
    names = {f"b{r}.conv{i}" for r in (4, 8, 16) for i in (0, 1)} - {"b4.conv0"}
    for recipe in (entry.recipe, entry.recipe["backends"]["openvino"]):
        assert recipe["search"]["psnr_db"] >= target
        assert set(recipe["higher_precision"]) | set(recipe["layers"]) == names
        assert not set(recipe["higher_precision"]) & set(recipe["layers"])


@pytest.mark.parametrize("wrong", [0.0, -3.0, float("nan"), 61.0])
def test_a_psnr_out_of_range_or_without_int8_is_refused(checkpoint: Path, tmp_path: Path, wrong: float) -> None:
    with pytest.raises(InputError, match="dB"):
        export_bundle(checkpoint, tmp_path / "b", min_psnr=wrong)
    with pytest.raises(InputError, match="int8"):
        export_bundle(checkpoint, tmp_path / "b", ["fp32"], min_psnr=35.0)
    assert not (tmp_path / "b").exists()
