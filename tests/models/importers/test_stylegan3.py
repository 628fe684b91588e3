"""Imported StyleGAN3 generators compute what the generators of the file compute; other networks are refused by name."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.core.errors import CheckpointError, InputError
from stylert.models.importers.import_checkpoint import ImportedCheckpoint, import_checkpoint
from stylert.models.stylegan3.config import GeneratorConfig
from stylert.models.stylegan3.networks import Generator
from stylert.train.imported_start import imported_run_config
from stylert.train.transfer import read_networks
from tests.models.importers.official_files import official_file, official_module
from tests.models.importers.pickle_writer import Call, PickleWriter
from tests.models.importers.stylegan3_files import stylegan3_file, stylegan3_record
from tests.models.stylegan2.tiny import tiny_generator
from tests.models.stylegan3.float64_reference import Reference
from tests.models.stylegan3.tiny import configurations, randomized, rigid_transform, tiny_config

seeds = st.integers(0, 2**31)


def network_of(imported: ImportedCheckpoint) -> Generator:
    generator = Generator(imported.config)
    generator.load_state_dict({name: torch.from_numpy(array) for name, array in imported.arrays.items()})
    return generator.eval().requires_grad_(False)


def state_of(content: dict[str, Any], *path: str) -> dict[str, Any]:
    """The state of a module of G_ema by its path."""
    state: dict[str, Any] = content["G_ema"].args[0]["state"]
    for name in path:
        state = state["_modules"][name].args[0]["state"]
    return state


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError, match=f"cannot import {path}: ") as error:
        import_checkpoint(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cfg=configurations(), seed=seeds, lr=st.sampled_from([0.01, 0.02]))
def test_imported_networks_equal_the_formulas(cfg: GeneratorConfig, seed: int, lr: float, tmp_path: Path) -> None:
    original = randomized(cfg, seed)
    imported = import_checkpoint(stylegan3_file(tmp_path / "network.pkl", original, lr=lr))
    without_filters = all(layer.up == layer.down == 1 for layer in cfg.layers())
    assert imported.config == (cfg if not without_filters else replace(cfg, filter_size=6))
    assert any("learning rate multiplier" in note for note in imported.notes) == (lr != 0.01)
    net = network_of(imported)
    rng = np.random.default_rng(seed)
    ws = rng.standard_normal((2, cfg.num_ws, cfg.w_dim)).astype(np.float32)
    transform = torch.stack([rigid_transform(0.4, (0.1, -0.2)), torch.eye(3)])
    image = net.synthesis(torch.from_numpy(ws), transform).numpy()
    expected = Reference(original, cfg).synthesis(ws.astype(np.float64), transform.double().numpy())
    assert np.abs(image - expected).max() <= 1e-5 * np.abs(expected).max()
    z = torch.from_numpy(rng.standard_normal((2, cfg.z_dim)))
    c = torch.eye(cfg.c_dim)[[0, 1]] if cfg.c_dim else None
    torch.testing.assert_close(net.mapping(z, c, psi=0.5), original.mapping(z, c, psi=0.5), rtol=1e-5, atol=1e-5)


def test_parts_that_are_not_read_are_named_and_a_single_generator_serves(tmp_path: Path) -> None:
    generator = randomized(tiny_config(), 1)
    notes = import_checkpoint(stylegan3_file(tmp_path / "x.pkl", generator)).notes
    assert notes[1:] == ("dropped the entry D", "dropped the entry G", "dropped the entry augment_pipe")
    (tmp_path / "x.pkl").write_bytes(PickleWriter().dumps(stylegan3_record(generator, generator.cfg, {})))
    assert import_checkpoint(tmp_path / "x.pkl").notes[1:] == ("the file is a single generator: used as G_ema",)


def test_a_file_without_average_and_with_a_transform_is_read_and_says_so(tmp_path: Path) -> None:
    generator = randomized(tiny_config(), 2)
    generator.synthesis.input.transform.copy_(rigid_transform(0.3, (0.1, 0.0)))
    imported = import_checkpoint(stylegan3_file(tmp_path / "x.pkl", generator, average=False))
    torch.manual_seed(0)
    mean = generator.mapping(torch.randn(20000, 5))[:, 0].mean(0).numpy()
    assert np.abs(imported.arrays["mapping.w_avg"] - mean).max() < 0.1 * np.abs(mean).max()
    np.testing.assert_array_equal(imported.arrays["synthesis.input.transform"], generator.synthesis.input.transform.numpy())
    assert "no average of w" in " ".join(imported.notes)
    assert "transform of its own" in " ".join(imported.notes)


def test_arguments_that_a_file_lacks_have_the_defaults_or_it_is_refused(tmp_path: Path) -> None:
    standard = tiny_config(channel_base=32768, channel_max=512, num_layers=3, w_dim=2, conv_kernel=1)
    imported = import_checkpoint(stylegan3_file(tmp_path / "x.pkl", randomized(standard, 3), arguments={}))
    assert imported.config == standard
    other = randomized(tiny_config(last_stopband_rel=1.4), 3)  # the same rates
    arguments = {"channel_base": 96, "channel_max": 5}
    assert "is not the filter that its settings give" in refusal(stylegan3_file(tmp_path / "x.pkl", other, arguments=arguments))
    message = refusal(stylegan3_file(tmp_path / "x.pkl", other, arguments={"channel_base": 64}))
    assert "has a layer L0_22_5 where its settings give L0_22_16" in message


@pytest.mark.parametrize(
    ("layer", "attribute", "value", "message"),
    [
        ("L1_22_5", "up_factor", 4, "filter_size = 6, 3 over its layers"),
        ("L1_22_5", "padding", [9, 9, 9, 9], "has padding = a value of type list in L1_22_5"),
        ("L1_22_5", "conv_kernel", 5, "conv_kernel = 3, 5 over its layers"),
        ("L1_22_5", "conv_clamp", 1.0, "conv_clamp = 256.0, 1.0 over its layers"),
        ("L1_22_5", "use_fp16", "yes", "has use_fp16 = yes in L1_22_5, its settings give True"),
        ("L1_22_5", "tmp_sampling_rate", "no", "a layer without a whole lrelu_upsampling"),
        ("L1_22_5", "down_taps", 13, "a whole filter_size"),
        ("L4_16_3", "is_torgb", False, "has is_torgb = False in L4_16_3"),
        ("L4_16_3", "conv_kernel", 3, "has conv_kernel = 3 in L4_16_3"),
        ("input", "bandwidth", -1.0, "no valid configuration: first_cutoff"),
        ("input", "bandwidth", 1.0, "is not the filter that its settings give"),
    ],
)
def test_layers_that_do_not_follow_from_the_settings_are_refused_by_name(
    layer: str, attribute: str, value: Any, message: str, tmp_path: Path
) -> None:
    generator = randomized(tiny_config(), 4)

    def change(content: dict[str, Any]) -> dict[str, Any]:
        state = state_of(content, "synthesis", layer)
        assert attribute in state
        state[attribute] = value
        return content

    assert message in refusal(stylegan3_file(tmp_path / "x.pkl", generator, change=change))


def test_missing_wrong_and_unknown_tensors_are_refused_by_name(tmp_path: Path) -> None:
    generator = randomized(tiny_config(), 5)
    path = tmp_path / "x.pkl"

    def with_buffer(name: str, value: torch.Tensor | None) -> str:
        def change(content: dict[str, Any]) -> dict[str, Any]:
            buffers = state_of(content, "synthesis", "L1_22_5")["_buffers"]
            buffers[name] = value
            return content

        return refusal(stylegan3_file(path, generator, change=change))

    assert "lacks the tensor synthesis.L1_22_5.up_filter" in with_buffer("up_filter", None)
    assert "up_filter is [6], the network needs [12]" in with_buffer("up_filter", torch.ones(6))
    assert "up_filter is not the filter" in with_buffer("up_filter", torch.ones(12) / 12)
    assert "magnitude_ema is not positive" in with_buffer("magnitude_ema", torch.tensor(0.0))
    assert "not finite" in with_buffer("magnitude_ema", torch.tensor(float("nan")))
    assert "holds the tensor synthesis.L1_22_5.noise, which no StyleGAN3 has" in with_buffer("noise", torch.ones(3))


def test_other_networks_and_other_activations_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    generator = randomized(tiny_config(), 6)

    def relu(content: dict[str, Any]) -> dict[str, Any]:
        state_of(content, "mapping", "fc0")["activation"] = "relu"
        return content

    assert "activation relu in mapping.fc0" in refusal(stylegan3_file(path, generator, change=relu))
    assert "holds no network G_ema" in refusal(stylegan3_file(path, generator, change=lambda content: {"D": content["D"]}))

    def without_input(content: dict[str, Any]) -> dict[str, Any]:
        del state_of(content, "synthesis")["_modules"]["input"]
        return content

    assert "not a StyleGAN3 generator" in refusal(stylegan3_file(path, generator, change=without_input))
    path.write_bytes(pickle.dumps([1, 2]))
    assert "holds a value of type list and no networks" in refusal(path)
    for content in (b"", b"x" * 100):
        path.write_bytes(content)
        refusal(path)
    with pytest.raises(CheckpointError, match="missing"):
        import_checkpoint(tmp_path / "missing")


def test_a_file_with_one_stylegan3_generator_is_never_read_as_stylegan2(tmp_path: Path) -> None:
    path = official_file(tmp_path / "x.pkl", tiny_generator())
    assert import_checkpoint(path).config.network == "stylegan2"
    assert import_checkpoint(stylegan3_file(path, randomized(tiny_config(), 6))).config.network == "stylegan3"


def test_training_from_an_imported_file_is_refused_by_name(tmp_path: Path) -> None:
    path = stylegan3_file(tmp_path / "x.pkl", randomized(tiny_config(), 6))
    with pytest.raises(InputError, match="this file is a StyleGAN3 network, and training knows StyleGAN2 alone"):
        imported_run_config(tmp_path / "run", import_checkpoint(path))
    with pytest.raises(InputError, match="is a StyleGAN3 network, and training knows StyleGAN2 alone"):
        read_networks(path)
    assert not (tmp_path / "run").exists()


def test_no_code_of_a_file_runs(tmp_path: Path) -> None:
    generator = randomized(tiny_config(), 7)

    def attack(content: dict[str, Any]) -> dict[str, Any]:
        state_of(content, "synthesis")["hook"] = Call("os", "system", (f"touch {tmp_path}/ran",))
        return content

    assert "os.system" in refusal(stylegan3_file(tmp_path / "x.pkl", generator, change=attack))
    source = f"open({str(tmp_path / 'ran')!r}, 'w')"

    def with_source(content: dict[str, Any]) -> dict[str, Any]:
        content["augment_pipe"] = official_module("AugmentPipe", {"_parameters": {}, "_buffers": {}, "_modules": {}}, source)
        return content

    import_checkpoint(stylegan3_file(tmp_path / "x.pkl", generator, change=with_source))
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    generator = randomized(tiny_config(), 8)
    whole = stylegan3_file(tmp_path / "x.pkl", generator).read_bytes()
    rng = np.random.default_rng(9)
    for _ in range(60):
        damaged = bytearray(whole)
        if rng.random() < 0.3:
            damaged = damaged[: rng.integers(len(whole))]
        else:
            damaged[rng.integers(len(whole))] = rng.integers(256)
        (tmp_path / "x.pkl").write_bytes(damaged)
        try:
            import_checkpoint(tmp_path / "x.pkl")
        except CheckpointError as e:
            assert "\n" not in str(e)
