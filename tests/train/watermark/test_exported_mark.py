"""A mark in an exported network: INT8 keeps it, since the calibration runs the marked network, and lost noise is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stylert.core.errors import InputError
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.export.quantization.calibration import calibrate
from stylert.models.checkpoint import GeneratorWeights, generator_module, write_generator
from stylert.runtime import Generator
from stylert.train.watermark.fine_tuning import TuningSettings
from stylert.train.watermark.marking import MarkSettings, drawn_images, mark_generator, share_read
from tests.conftest import random_arrays, small_config

KEY = (1, 0, 0, 1, 1, 0, 1, 0)


def marked_file(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    write_generator(path, small_config(), arrays, info={"watermark": {"bits": 8, "psnr": 35.0}})
    return path


@pytest.mark.parametrize("noise", ["none", "input"])
def test_a_marked_network_is_not_exported_without_its_noise(tmp_path: Path, rng: np.random.Generator, noise: str) -> None:
    checkpoint = marked_file(tmp_path / "marked.safetensors", random_arrays(small_config(), rng))
    with pytest.raises(InputError, match="its mark lies in the constant noise"):
        export_bundle(checkpoint, tmp_path / "bundle", ("fp32",), noise=noise)  # type: ignore[arg-type]
    assert not (tmp_path / "bundle").exists()


def test_the_calibration_measures_the_maps_of_the_network(rng: np.random.Generator) -> None:
    cfg = small_config()
    arrays = random_arrays(cfg, rng)
    ws = [rng.standard_normal((1, cfg.num_ws, cfg.w_dim)).astype(np.float32) for _ in range(4)]
    layer, reader = "synthesis.b16.conv0", "b16.conv1"
    marked = {**arrays, f"{layer}.noise_strength": np.array(30, np.float32)}
    plain, loud = (calibrate(GeneratorWeights(cfg, weights, {}), ws)[reader] for weights in (arrays, marked))
    assert loud.input.high > 2 * plain.input.high
    other = {**arrays, f"{layer}.noise_const": rng.standard_normal((16, 16)).astype(np.float32)}
    assert calibrate(GeneratorWeights(cfg, other, {}), ws)[reader].input.high != plain.input.high


@pytest.mark.slow
def test_the_int8_network_carries_the_mark(tmp_path: Path, rng: np.random.Generator) -> None:
    cfg = small_config(resolution=32)
    generator = generator_module(GeneratorWeights(cfg, random_arrays(cfg, rng), {}))
    tuning = TuningSettings(steps=80, psnr=24, lr=6e-3)
    marked = mark_generator(generator, KEY, MarkSettings(5, images=256, decoder_steps=80, test_images=64, tuning=tuning))
    arrays = {name: tensor.numpy() for name, tensor in marked.generator.state_dict().items()}
    write_generator(tmp_path / "marked.safetensors", cfg, arrays, info={})
    export_bundle(tmp_path / "marked.safetensors", tmp_path / "bundle", ("int8",), backends=("onnxruntime",))
    with Generator.load(tmp_path / "bundle", precision="int8", threads=1) as network:
        images = network.synthesize(network.map(z_from_seeds(range(500, 532), cfg.z_dim)))
    exact = share_read(marked.decoder, drawn_images(marked.generator, 500, 32), KEY)
    assert exact > 0.85
    assert share_read(marked.decoder, images, KEY) > exact - 0.05
