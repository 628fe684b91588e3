"""Networks of other channels than grey and RGB: each channel is verified, and measured values keep names and units."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.core.errors import BundleError, InputError
from stylert.core.images.channels import Channel
from stylert.export.channel_accuracy import channel_accuracies
from stylert.export.pipeline import export_bundle
from stylert.export.verify import verify
from stylert.models.checkpoint import read_generator, write_generator
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.pictures import check_bundle_channels
from tests.export.networks import random_weights

VALUES = (Channel("t2m", "K", 50.0, 270.0), Channel("q", "kg/kg", 1e-3, 0.01), *(Channel(f"c{i}") for i in range(3)))


@pytest.fixture
def values_checkpoint(tmp_path: Path) -> Path:
    weights = random_weights(img_channels=len(VALUES), resolution=16)
    write_generator(tmp_path / "v.safetensors", dataclasses.replace(weights.config, image_channels=VALUES), weights.arrays)
    return tmp_path / "v.safetensors"


def test_channels_stay_with_the_checkpoint_and_the_bundle(values_checkpoint: Path, tmp_path: Path) -> None:
    assert read_generator(values_checkpoint).config.image_channels == VALUES
    bundle = export_bundle(values_checkpoint, tmp_path / "b", ["fp32"])
    assert (bundle.channels, bundle.output, bundle.shown_channels) == (VALUES, "float", 1)
    assert Bundle.load(tmp_path / "b").channels == VALUES
    with pytest.raises(InputError, match="t2m"):
        check_bundle_channels("a.png", bundle)
    assert export_bundle(values_checkpoint, tmp_path / "bytes", ["fp32"], output="uint8").output == "uint8"


def test_every_channel_is_verified_in_its_unit(values_checkpoint: Path, tmp_path: Path) -> None:
    bundle = export_bundle(values_checkpoint, tmp_path / "b", ["fp32", "fp16"], verify_seeds=3)
    (row,) = verify(bundle, values_checkpoint, ["onnxruntime"], ["fp16"], seeds=3)
    with Generator.load(bundle) as exact, Generator.load(bundle, precision="fp16") as half:
        error = np.abs(half([0, 1, 2]).astype(np.float64) - exact([0, 1, 2]))
    for i, (channel, accuracy) in enumerate(zip(VALUES, row.channels, strict=True)):
        assert (accuracy.name, accuracy.unit) == (channel.name, channel.unit)
        assert accuracy.rms_error == pytest.approx(np.sqrt(np.square(error[:, i]).mean()) * channel.scale, rel=0.05)
        assert accuracy.max_error == pytest.approx(error[:, i].max() * channel.scale, rel=0.05)
        assert accuracy.rms_bound == pytest.approx(2 * channel.scale * 10 ** (-45 / 20), rel=1e-4)
    assert row.passed
    assert bundle.precisions["fp16"].accuracy["onnxruntime"]["channels"][0]["name"] == "t2m"


def test_one_wrong_channel_fails_however_good_the_others_are(rng: np.random.Generator) -> None:
    reference = rng.integers(60, 200, (2, 8, 8, 4)).astype(np.uint8)
    image = reference.copy()
    image[..., 3] += 12
    red, *_, alpha = channel_accuracies(list(zip(image, reference, strict=True)), (), 33.0)
    assert (red.psnr_db, alpha.name, alpha.unit) == (100.0, "alpha", "/255")
    assert alpha.rms_error == alpha.max_error == 12
    assert alpha.psnr_db < 33
    assert alpha.rms_error > alpha.rms_bound


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_rgb_pictures_have_no_channel_accuracy(channels: int) -> None:
    image = np.zeros((4, 4, channels), np.uint8)
    assert channel_accuracies([(image, image)], (), 33.0) == ()


@given(
    count=st.integers(1, 9),
    field=st.sampled_from(["name", "scale", "extra"]),
    value=st.sampled_from(["", 0, -1.5, None, "a\nb"]),
)
def test_a_manifest_with_damaged_channels_is_refused(shared_bundle: Path, count: int, field: str, value: object) -> None:
    import json

    manifest = json.loads((shared_bundle / "bundle.json").read_text(encoding="utf-8"))
    channels = [{"name": f"c{i}", "unit": "", "scale": 1.0, "offset": 0.0} for i in range(count)]
    if field == "extra" and count == manifest["model"]["img_channels"]:
        return
    channels[0][field] = value
    damaged = shared_bundle.parent / "damaged"
    damaged.mkdir(exist_ok=True)
    (damaged / "bundle.json").write_text(json.dumps({**manifest, "channels": channels}), encoding="utf-8")
    with pytest.raises(BundleError, match="channel"):
        Bundle.load(damaged)


@pytest.fixture(scope="module")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("channels")
    weights = random_weights(img_channels=2, resolution=8)
    write_generator(folder / "a.safetensors", weights.config, weights.arrays)
    export_bundle(folder / "a.safetensors", folder / "b", ["fp32"])
    return folder / "b"
