"""An encoder in a bundle gives the latents of its PyTorch network, in every precision as near as it says."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from stylert.core.errors import InputError
from stylert.export.encoder import adding
from stylert.export.encoder.adding import add_encoder
from stylert.export.pipeline import export_bundle, own_files
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.steering.encoder_file import EncoderWeights
from stylert.runtime.steering.picture_encoder import PictureEncoder

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> EncoderWeights:
    """A random encoder, whose latents differ from picture to picture."""
    from stylert.models.latent_encoder import EncoderConfig, LatentEncoder

    config = EncoderConfig(bundle.resolution, 3, bundle.num_ws, bundle.model["w_dim"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LatentEncoder(config)
        network.set_statistics(torch.randn(200, config.w_dim))
        for head in network.heads:
            torch.nn.init.normal_(head.out.weight, std=0.05)  # type: ignore[union-attr,arg-type]
    arrays = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    curvature = {"rest": np.ones(1, np.float32)}
    network_hash = bundle.provenance["checkpoint_sha256"]
    return EncoderWeights(network_hash, *vars(config).values(), arrays, curvature, {"steps": 3}, "cd" * 32)


@pytest.fixture(scope="module")
def added(bundle: Bundle, encoder: EncoderWeights, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("encoder") / "b"
    shutil.copytree(bundle.path, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adding, "MOST_LOST_DB", {"fp32": 0.0, "fp16": 1.0, "int8": 50.0})  # the weights are random
        rows = add_encoder(path, encoder, test_images=4)
    assert [row.precision for row in rows] == ["fp32", "fp16", "int8"]
    assert all(row.passed for row in rows)
    return Bundle.load(path)


def latents_of(encoder: EncoderWeights, images: np.ndarray) -> np.ndarray:
    """The latents of the PyTorch network."""
    from stylert.models.latent_encoder import EncoderConfig, encoder_module

    config = EncoderConfig(encoder.resolution, encoder.img_channels, encoder.num_ws, encoder.w_dim)
    with torch.no_grad():
        floats = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127.5) / 127.5
        found: np.ndarray = encoder_module(config, encoder.arrays)(floats).numpy()
    return found


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.3)])
def test_latents_are_those_of_the_torch_network(
    added: Bundle, encoder: EncoderWeights, precision: str, most: float, rng: np.random.Generator
) -> None:
    with Generator.load(added, threads=1) as generator:
        images = generator(range(5))
    expected = latents_of(encoder, images)
    with PictureEncoder.load(added, precision, threads=1) as network:
        found = network(images)
    spread = expected.std()
    assert expected.std(0).mean() > 0.05 * spread  # the pictures differ
    assert np.sqrt(np.mean((found - expected) ** 2)) <= most * spread


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_openvino_computes_the_same_network(
    added: Bundle, encoder: EncoderWeights, precision: str, rng: np.random.Generator
) -> None:
    openvino = pytest.importorskip("openvino")
    images = rng.integers(0, 256, (3, 16, 16, 3), np.uint8)
    core = openvino.Core()
    model = core.compile_model(
        core.read_model(added.path / added.encoder[precision].file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    found, expected = next(iter(model({"images": images}).values())), latents_of(encoder, images)
    assert np.sqrt(np.mean((found - expected) ** 2)) <= (1e-4 if precision == "fp32" else 0.3) * expected.std()


def test_the_bundle_lists_the_networks_and_tells_how_good_they_are(added: Bundle) -> None:
    for precision, entry in added.encoder.items():
        assert added.checked_file(entry.file).name.startswith(f"encoder.{precision}.")
        assert entry.recipe == {"encoder_sha256": "cd" * 32, "steps": 3}
        assert entry.accuracy["images"] == 4
        assert entry.accuracy["worst_psnr_db"] <= entry.accuracy["psnr_db"]
        assert entry.file in own_files(added.path)
    assert added.encoder["fp32"].accuracy["lost_db"] == 0


def test_networks_name_no_folder_of_this_machine(added: Bundle) -> None:
    for entry in added.encoder.values():
        data = (added.path / entry.file).read_bytes()
        assert str(Path(__file__).parents[3]).encode() not in data
        assert b"site-packages" not in data
        onnx.checker.check_model(str(added.path / entry.file))


def test_a_precision_that_loses_too_much_is_left_out_and_a_former_one_removed(
    added: Bundle, encoder: EncoderWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b"
    shutil.copytree(added.path, path)
    monkeypatch.setattr(adding, "MOST_LOST_DB", {"fp32": 0.0, "int8": -1.0})
    rows = add_encoder(path, encoder, ["int8"], test_images=2)
    assert [(row.precision, row.passed) for row in rows] == [("int8", False)]
    assert Bundle.load(path).encoder == {}
    assert not list(path.glob("encoder.*"))


def test_an_export_replaces_a_bundle_with_an_encoder(added: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "b"
    shutil.copytree(added.path, path)
    assert export_bundle(checkpoint, path, ["fp32"]).encoder == {}
    assert not list(path.glob("encoder.*"))


def test_an_encoder_of_another_network_or_precision_is_refused(bundle: Bundle, encoder: EncoderWeights, tmp_path: Path) -> None:
    path = tmp_path / "b"
    shutil.copytree(bundle.path, path)
    with pytest.raises(InputError, match="this encoder belongs to the network"):
        add_encoder(path, replace(encoder, network="ef" * 32))
    for wrong in (["fp8"], [], [3]):
        with pytest.raises(InputError, match="an encoder has the precisions fp32, fp16, int8"):
            add_encoder(path, encoder, wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the encoder is damaged"):
        add_encoder(path, replace(encoder, arrays={"mean": encoder.arrays["mean"]}), ["fp32"])
    assert not list(path.glob("encoder.*"))
