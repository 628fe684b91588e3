"""Imported StyleGAN1 generators compute what the code of their project computes; other networks are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.core.errors import CheckpointError
from stylert.models.checkpoint import read_generator
from stylert.models.importers.import_checkpoint import ImportedCheckpoint, import_checkpoint, write_imported
from stylert.models.stylegan1.config import GeneratorConfig
from stylert.models.stylegan1.networks import Generator
from tests.models.importers.stylegan1_files import (
    lernapparat_state,
    rosinality_images,
    rosinality_state,
    tensorflow_arguments,
    tensorflow_file,
    tensorflow_images,
    tensorflow_variables,
    torch_file,
)
from tests.models.stylegan1.float64_reference import reference
from tests.models.stylegan1.tiny import configurations, tiny_config

seeds = st.integers(0, 2**31)
FILE_FIELDS: dict[str, Any] = {"norm_eps": 1e-8, "bias_before_blur": False}


def network_of(imported: ImportedCheckpoint) -> Generator:
    generator = Generator(imported.config)
    generator.load_state_dict({name: torch.from_numpy(array) for name, array in imported.arrays.items()})
    return generator.eval().requires_grad_(False)


def check_images(imported: ImportedCheckpoint, z: np.ndarray, c: np.ndarray | None, expected: np.ndarray) -> None:
    """The formulas on the imported tensors, and the PyTorch network, draw the images of the file."""
    generator = network_of(imported)
    exact = reference(generator)
    ws = np.repeat(exact.mapping(z, c)[:, None], generator.cfg.num_ws, 1)
    peak = max(float(np.abs(expected).max()), 1.0)
    assert np.abs(exact.synthesis(ws) - expected).max() <= 1e-5 * peak
    image = generator(torch.from_numpy(z), None if c is None else torch.from_numpy(c)).numpy()
    assert np.abs(image - expected).max() <= 2e-3 * peak  # float32 mapping layers turn into other styles


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError, match=f"cannot import {path}: ") as error:
        import_checkpoint(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cfg=configurations(**FILE_FIELDS),
    seed=seeds,
    fused=st.sampled_from(["auto", True, False]),
    lr=st.sampled_from([0.01, 0.02]),
)
def test_tensorflow_networks_draw_the_images_of_their_code(
    cfg: GeneratorConfig, seed: int, fused: object, lr: float, tmp_path: Path
) -> None:
    variables = tensorflow_variables(cfg, seed, lr)
    imported = import_checkpoint(tensorflow_file(tmp_path / "sg1.pkl", variables, tensorflow_arguments(cfg, fused, lr)))
    assert imported.config == cfg
    assert any("learning rate multiplier" in note for note in imported.notes) == (lr != 0.01)
    rng = np.random.default_rng(seed)
    z, c = rng.standard_normal((2, cfg.z_dim)), np.eye(cfg.c_dim)[[0, 2]] if cfg.c_dim else None
    check_images(imported, z, c, tensorflow_images(variables, cfg, z, c, fused, lr))
    np.testing.assert_array_equal(imported.arrays["mapping.w_avg"], variables["dlatent_avg"])


def test_large_images_are_upsampled_by_rotated_kernels(tmp_path: Path) -> None:
    cfg = GeneratorConfig(128, z_dim=4, w_dim=4, channel_base=256, channel_max=2, mapping_layers=1)
    variables = tensorflow_variables(cfg, 1)
    path = tensorflow_file(tmp_path / "sg1.pkl", variables, tensorflow_arguments(cfg))
    z = np.random.default_rng(2).standard_normal((1, 4))
    check_images(import_checkpoint(path), z, None, tensorflow_images(variables, cfg, z, None))
    path = torch_file(tmp_path / "sg1.pt", lernapparat_state(variables))
    imported = import_checkpoint(path)
    weight = imported.arrays["synthesis.b128.conv0.weight"]
    np.testing.assert_array_equal(
        weight, variables["synthesis/128x128/Conv0_up/weight"].transpose(3, 2, 0, 1)[:, :, ::-1, ::-1]
    )


def test_g_and_d_are_dropped_and_the_file_of_the_import_is_read_again(tmp_path: Path) -> None:
    cfg = tiny_config()
    path = tensorflow_file(tmp_path / "sg1.pkl", tensorflow_variables(cfg, 3), tensorflow_arguments(cfg))
    imported = import_checkpoint(path)
    assert imported.format == "StyleGAN (TensorFlow), pickle"
    assert imported.raw is None
    assert imported.discriminator is None
    assert [note for note in imported.notes if note.startswith("dropped")] == [
        "dropped G: stylert trains no StyleGAN1", "dropped D: stylert trains no StyleGAN1",
    ]  # fmt: skip
    write_imported(tmp_path / "sg1.safetensors", imported)
    weights = read_generator(tmp_path / "sg1.safetensors")
    assert weights.config == cfg
    for name, array in imported.arrays.items():
        np.testing.assert_array_equal(weights.arrays[name], array)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    channels=st.lists(st.integers(1, 3), min_size=1, max_size=2).map(
        lambda tail: [4 * tail[0], 4 * tail[0], 2 * tail[0], tail[0]]
    ),
    fused=st.integers(1, 4),
    depth=st.integers(1, 3),
    seed=seeds,
    entry=st.sampled_from(["g_running", "generator", "", "module"]),
)
def test_rosinalitys_networks_draw_the_images_of_their_code(
    channels: list[int], fused: int, depth: int, seed: int, entry: str, tmp_path: Path
) -> None:
    state = rosinality_state(channels, fused, 5, depth, seed)
    content: dict[str, Any] = {f"module.{name}": v for name, v in state.items()} if entry == "module" else state
    if entry in ("g_running", "generator"):
        content = {entry: content, "discriminator": {"x": np.zeros(1, np.float32)}}
    imported = import_checkpoint(torch_file(tmp_path / "sg1.model", content))
    assert imported.config.resolution == 32
    assert imported.config.norm_eps == 1e-5
    assert imported.config.bias_before_blur
    assert ("dropped the entry discriminator" in imported.notes) == (entry in ("g_running", "generator"))
    noise = [imported.arrays[f"synthesis.b{4 << i}.conv1.noise_const"] for i in range(4)]
    z = np.random.default_rng(seed).standard_normal((2, 5))
    check_images(imported, z, None, rosinality_images(state, z, noise))


@pytest.mark.parametrize("trained", [2, 3])
def test_blocks_that_rosinalitys_code_never_trained_are_left_out(trained: int, tmp_path: Path) -> None:
    state = rosinality_state([4, 4, 2, 1], 3, 5, 2, 1, trained)
    imported = import_checkpoint(torch_file(tmp_path / "sg1.model", {"g_running": state}))
    assert imported.config.resolution == 2 << trained
    assert any(f"the blocks above {2 << trained} px were never trained" in note for note in imported.notes)
    noise = [imported.arrays[f"synthesis.b{4 << i}.conv1.noise_const"] for i in range(trained)]
    z = np.random.default_rng(1).standard_normal((2, 5))
    check_images(imported, z, None, rosinality_images(state, z, noise))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cfg=configurations(**FILE_FIELDS, c_dim=0, channel_decay=1.0, channel_base=64, channel_max=4),
    seed=seeds,
    average=st.booleans(),
)
def test_lernapparats_networks_draw_the_images_of_their_code(
    cfg: GeneratorConfig, seed: int, average: bool, tmp_path: Path
) -> None:
    variables = tensorflow_variables(cfg, seed)
    state = lernapparat_state(variables)
    if average:
        state["truncation.avg_latent"] = variables["dlatent_avg"]
    imported = import_checkpoint(torch_file(tmp_path / "sg1.pt", state))
    assert imported.config.resolution == cfg.resolution
    if average:
        np.testing.assert_array_equal(imported.arrays["mapping.w_avg"], variables["dlatent_avg"])
    z = np.random.default_rng(seed).standard_normal((2, cfg.z_dim))
    generator = network_of(imported)
    names = [spec.name for spec in cfg.layers()[:-1]]
    noise = {
        f"synthesis/noise{i}": imported.arrays[f"synthesis.{name}.noise_const"][None, None] for i, name in enumerate(names)
    }
    exact = reference(generator)
    exact.norm_eps = 1e-8  # the port has a greater epsilon than the code of its formulas here
    ws = np.repeat(exact.mapping(z)[:, None], generator.cfg.num_ws, 1)
    expected = tensorflow_images(variables | noise, cfg, z, None)
    assert np.abs(exact.synthesis(ws) - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1)
    assert imported.config.norm_eps == 1e-5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"use_styles": False}, "use_styles = False"),
        ({"use_noise": False}, "use_noise = False"),
        ({"use_instance_norm": False}, "use_instance_norm = False"),
        ({"use_pixel_norm": True}, "use_pixel_norm = True"),
        ({"const_input_layer": False}, "const_input_layer = False"),
        ({"use_wscale": False}, "use_wscale = False"),
        ({"nonlinearity": "relu"}, "nonlinearity = relu"),
        ({"normalize_latents": False}, "normalize_latents = False"),
        ({"blur_filter": None}, r"another blur_filter than [1, 2, 1]"),
        ({"blur_filter": [1, 3, 1]}, r"another blur_filter than [1, 2, 1]"),
        ({"fused_scale": "sometimes"}, "fused_scale = sometimes"),
        ({"mapping_fmaps": 9}, "mapping layers of 9 features, not 7"),
        ({"fmap_base": 32.25}, "fmap_base = 32.25"),
        ({"resolution": 24}, "resolution must be a power of two"),
        ({"resolution_h": 8}, "not square: resolution_h is 8, resolution is 16"),
        ({"magic": 1}, "magic = 1"),
        ({"fmap_max": 5}, "is [1, 6, 4, 4], the network needs [1, 5, 4, 4]"),
        ({"mapping_lrmul": "x"}, "mapping learning rate multiplier x"),
    ],
)
def test_tensorflow_networks_that_cannot_be_represented_are_refused_by_name(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    cfg = tiny_config()
    path = tensorflow_file(tmp_path / "sg1.pkl", tensorflow_variables(cfg, 1), tensorflow_arguments(cfg) | arguments)
    assert message in refusal(path)


def test_growing_and_incomplete_tensorflow_networks_are_refused_by_name(tmp_path: Path) -> None:
    cfg = tiny_config()
    variables, arguments = tensorflow_variables(cfg, 1), tensorflow_arguments(cfg)
    path = tmp_path / "sg1.pkl"
    assert "still growing: its level of detail is 1.5, not 0" in refusal(tensorflow_file(path, variables, arguments, lod=1.5))
    assert "holds 2 TensorFlow networks where StyleGAN has three" in refusal(
        tensorflow_file(path, variables, arguments, count=2)
    )
    without = {name: value for name, value in variables.items() if name != "synthesis/8x8/Conv1/Noise/weight"}
    assert "lacks the tensor synthesis/8x8/Conv1/Noise/weight" in refusal(tensorflow_file(path, without, arguments))
    more = variables | {"synthesis/8x8/Attention/weight": np.ones(3, np.float32)}
    assert "synthesis/8x8/Attention/weight, which no StyleGAN1 has" in refusal(tensorflow_file(path, more, arguments))
    broken = variables | {"synthesis/4x4/Conv/bias": np.full(6, np.nan, np.float32)}
    assert "not finite" in refusal(tensorflow_file(path, broken, arguments))


def test_pytorch_networks_that_cannot_be_represented_are_refused_by_name(tmp_path: Path) -> None:
    state, path = rosinality_state([4, 4, 2], 2, 5, 2, 1), tmp_path / "sg1.model"

    def refused(changes: dict[str, Any], gone: tuple[str, ...] = ()) -> str:
        changed = {name: value for name, value in (state | changes).items() if name not in gone}
        return refusal(torch_file(path, {"g_running": changed}))

    assert "another blur" in refused({"generator.progression.1.conv1.2.weight": np.ones((4, 1, 3, 3), np.float32)})
    assert "generator.attention, which no StyleGAN1 has" in refused({"generator.attention": np.ones(1, np.float32)})
    assert "mapping layers" in refused({}, ("style.1.linear.weight_orig",))
    assert "lacks the tensor generator.progression.0.adain2.style.linear.bias" in refused(
        {}, ("generator.progression.0.adain2.style.linear.bias",)
    )
    assert "not a state dict" in refused({"count": 3})
    assert "do not follow min(base / resolution, maximum)" in refusal(
        torch_file(path, rosinality_state([4, 4, 3, 4], 9, 5, 1, 1))
    )
    assert "never trained" in refusal(torch_file(path, rosinality_state([4, 4, 2], 2, 5, 1, 1, trained=0)))
    lernapparat = lernapparat_state(tensorflow_variables(tiny_config(), 1))
    assert "truncation.avg_latent is [9], the network needs [7]" in refusal(
        torch_file(path, lernapparat | {"truncation.avg_latent": np.zeros(9, np.float32)})
    )
    assert "g_synthesis.more, which no StyleGAN1 has" in refusal(
        torch_file(path, lernapparat | {"g_synthesis.more": np.zeros(9, np.float32)})
    )
