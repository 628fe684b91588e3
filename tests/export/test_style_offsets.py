"""The input `style_offsets` moves styles as edited weights do, in every form, and changes nothing where it is not asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from stylert.core.errors import BackendError, InputError
from stylert.export.network_plan import ConvForm, RgbForm, float16_plan, float32_plan
from stylert.export.pipeline import export_bundle
from stylert.export.synthesis import synthesis_model
from stylert.models.checkpoint import GeneratorWeights, read_generator, write_generator
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.networks import Generator as Network
from stylert.models.stylegan2.style_space import style_slices
from stylert.runtime import Generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.bundle import Bundle
from stylert.runtime.web.browser_networks import synthesis_network
from tests.export.networks import assert_close, peak_snr_db, random_network, random_ws, run, synthesize64


def with_moved_biases(weights: GeneratorWeights, offsets: np.ndarray) -> GeneratorWeights:
    """The weights whose affine layers return styles that are moved by `offsets`, `[S]`."""
    arrays = dict(weights.arrays)
    for name, place in style_slices(weights.config).items():
        bias = f"synthesis.{name}.affine.bias"
        arrays[bias] = arrays[bias] + offsets[place]
    return replace(weights, arrays=arrays)


def expected_images(weights: GeneratorWeights, ws: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Each image by a float64 network of PyTorch with edited weights."""
    images = []
    for row, moved in zip(ws, offsets, strict=True):
        generator = Network(weights.config)
        arrays = with_moved_biases(weights, moved).arrays
        generator.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        images.append(synthesize64(generator.double().requires_grad_(False), row[None], "const"))
    return np.concatenate(images)


def random_offsets(weights: GeneratorWeights, n: int, rng: np.random.Generator) -> np.ndarray:
    """`[n, S]`; some styles do not move."""
    channels = sum(spec.in_channels for spec in weights.config.layers())
    offsets = rng.standard_normal((n, channels)) * (rng.random((n, channels)) < 0.5)
    return offsets.astype(np.float32)


@pytest.mark.parametrize("for_openvino", [False, True])
@pytest.mark.parametrize("rgb_form", get_args(RgbForm))
@pytest.mark.parametrize("form", get_args(ConvForm))
def test_every_form_equals_a_network_with_edited_weights(
    form: ConvForm, rgb_form: RgbForm, for_openvino: bool, rng: np.random.Generator
) -> None:
    weights, _ = random_network(conv_clamp=None)
    plan = float32_plan(weights.config, form, rgb_form)
    if for_openvino:
        plan = replace(plan, per_sample_bias=True, split_styles=True)
    ws, offsets = random_ws(weights, 3), random_offsets(weights, 3, rng)
    model = synthesis_model(weights, "const", "float", plan, style_offsets=True)
    assert_close(run(model, ws=ws, style_offsets=offsets), expected_images(weights, ws, offsets), 1e-5)


def test_float16_equals_a_network_with_edited_weights(rng: np.random.Generator) -> None:
    weights, _ = random_network(conv_clamp=None)
    ws, offsets = random_ws(weights, 2), random_offsets(weights, 2, rng)
    model = synthesis_model(weights, "const", "float", float16_plan(weights, "phases", "conv"), style_offsets=True)
    assert peak_snr_db(run(model, ws=ws, style_offsets=offsets), expected_images(weights, ws, offsets)) > 45


def test_offsets_of_zero_change_no_bit(rng: np.random.Generator) -> None:
    weights, _ = random_network()
    ws = random_ws(weights, 3)
    none = np.zeros_like(random_offsets(weights, 3, rng))
    moved = run(synthesis_model(weights, "const", "float", style_offsets=True), ws=ws, style_offsets=none)
    np.testing.assert_array_equal(moved, run(synthesis_model(weights, "const", "float"), ws=ws))


def test_config_f_has_the_9088_styles_of_the_stylespace_paper() -> None:
    slices = style_slices(GeneratorConfig(1024))
    assert list(slices.values())[-1].stop == 9088
    assert sum(s.stop - s.start for name, s in slices.items() if "torgb" in name) == 3040


@pytest.fixture(scope="module")
def steerable(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with the input, in the precisions that this machine runs."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    return export_bundle(checkpoint, folder, ["fp32", "fp16", "bf16", "int8"], style_offsets=True)


def test_every_precision_on_every_backend_equals_a_bundle_of_edited_weights(
    steerable: Bundle, checkpoint: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    """The reference is the fp32 network of a checkpoint in which the same styles are moved by weights."""
    weights = read_generator(checkpoint)
    offsets = random_offsets(weights, 1, rng)
    edited = with_moved_biases(weights, offsets[0])
    write_generator(tmp_path / "edited.safetensors", edited.config, edited.arrays)
    reference = export_bundle(tmp_path / "edited.safetensors", tmp_path / "edited", ["fp32"])
    seeds, tried = [0, 1, 2], set()
    with Generator.load(reference) as g:
        ws = g.map(np.random.RandomState(0).randn(3, reference.model["z_dim"]))
        expected = g.synthesize(ws).astype(float)
    for name in available_backends():
        for precision, entry in steerable.precisions.items():
            if backend(name).facts.needs_engine or precision not in backend(name).facts.precisions:
                continue
            with Generator.load(steerable, name, precision) as g:
                images = g.synthesize(ws, style_offsets=np.repeat(offsets, len(seeds), 0)).astype(float)
                unmoved = g.synthesize(ws).astype(float)
            psnr = 20 * np.log10(255 / max(np.sqrt(np.square(images - expected).mean()), 1e-9))
            # Calibration has not seen such styles, so 8 bits may lose more than a bundle promises.
            assert psnr > (entry.min_psnr_db if precision != "int8" else 25), (name, precision, psnr)
            assert np.abs(unmoved - expected).mean() > 5 * np.abs(images - expected).mean()
            tried.add(precision)
    assert {"fp32", "int8"} <= tried


def test_a_bundle_states_the_input_only_where_it_is_asked_for(steerable: Bundle, bundle: Bundle) -> None:
    assert b"style_" not in (bundle.path / "bundle.json").read_bytes()
    assert bundle.style_channels == 0
    assert Bundle.load(steerable.path).style_channels == steerable.style_channels > 0
    fp32 = bundle.checked_file(bundle.precision("fp32").file).read_bytes()
    assert b"style_offsets" not in fp32
    assert b"style_offsets" in steerable.checked_file(steerable.precision("fp32").file).read_bytes()


def test_wrong_offsets_are_refused_in_one_line(steerable: Bundle, bundle: Bundle) -> None:
    channels = steerable.style_channels
    with Generator.load(steerable) as g:
        ws = g.map(np.zeros((2, g.bundle.model["z_dim"]), np.float32))
        for wrong in (
            np.zeros((1, channels), np.float32),
            np.zeros((2, channels + 1)),
            np.full((2, channels), np.nan),
            [[0.0]],
        ):
            with pytest.raises(InputError, match="style_offsets"):
                g.synthesize(ws, style_offsets=wrong)
    with Generator.load(bundle) as g, pytest.raises(InputError, match="--style-offsets"):
        g.synthesize(ws, style_offsets=np.zeros((2, channels), np.float32))
    with pytest.raises(BackendError, match="--style-offsets"):
        synthesis_network(steerable, "fp32")


def test_a_bundle_with_labels_and_noise_inputs_takes_offsets_too(
    make_checkpoint: Callable[..., Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    b = export_bundle(make_checkpoint(c_dim=3), tmp_path / "b", ["fp32"], noise="input", style_offsets=True, verify_seeds=2)
    with Generator.load(b) as g:
        noise = {n: rng.standard_normal((2, 1, side, side)) for n, side in b.noise_inputs.items()}
        ws = g.map(rng.standard_normal((2, b.model["z_dim"])), labels=[0, 2])
        moved = g.synthesize(ws, noise, rng.standard_normal((2, b.style_channels)))
        assert np.abs(moved.astype(int) - g.synthesize(ws, noise)).max() > 10
