"""Checkpoints for other projects: their loaders get the networks, and our importers read them back unchanged."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.core.errors import InputError
from stylert.models.converters.convert_checkpoint import PROJECTS, write_for_project
from stylert.models.converters.networks import NetworksToWrite
from stylert.models.importers.import_checkpoint import import_checkpoint
from stylert.models.stylegan2.config import DiscriminatorConfig
from tests.models.converters.official_loader import load_official
from tests.models.importers.rosinality_files import rosinality_discriminator, rosinality_generator
from tests.models.stylegan3.tiny import configurations, randomized, tiny_config

OFFICIAL = {"stylegan2-ada-pytorch": "training.networks", "stylegan3": "training.networks_stylegan2"}
few_examples = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def arrays_of(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def networks_of(averaged: Any, raw: Any = None, discriminator: Any = None) -> NetworksToWrite:
    d = (None, None) if discriminator is None else (discriminator.cfg, arrays_of(discriminator))
    return NetworksToWrite(averaged.cfg, arrays_of(averaged), None if raw is None else arrays_of(raw), *d)


def with_labels_alone(cfg: DiscriminatorConfig) -> DiscriminatorConfig:
    """The configuration as a file can tell it: without labels there are no mapping layers to count."""
    return cfg if cfg.c_dim else replace(cfg, mapping_layers=DiscriminatorConfig.mapping_layers)


def assert_equal_arrays(actual: Any, expected: torch.nn.Module) -> None:
    arrays = arrays_of(expected)
    assert actual.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@few_examples
@given(
    project=st.sampled_from(sorted(OFFICIAL)),
    seed=st.integers(0, 2**31),
    resolution=st.sampled_from([8, 16, 32]),
    labels=st.integers(0, 3),
    architecture=st.sampled_from(["skip", "resnet", "orig"]),
    d_architecture=st.sampled_from(["skip", "resnet", "orig"]),
    layers=st.integers(1, 4),
    channels=st.integers(1, 4),
    halves=st.integers(0, 3),
    clamp=st.sampled_from([None, 256.0]),
    group=st.sampled_from([None, 2, 4]),
    maps=st.integers(0, 1),
    taps=st.sampled_from([(1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 1.0)]),
)
def test_official_files_are_read_back_unchanged(
    nets, tmp_path, project, seed, resolution, labels, architecture, d_architecture, layers, channels, halves, clamp, group, maps, taps
):  # fmt: skip
    torch.manual_seed(seed)
    blocks = int(math.log2(resolution)) - 2  # a file tells the blocks in half precision, and no number beyond them
    shared = {"num_fp16_res": min(halves, blocks), "conv_clamp": clamp, "resample_filter": taps}
    d = {"architecture": d_architecture, "mbstd_group_size": group if maps else None, "mbstd_num_channels": maps, **shared}
    sizes = {"resolution": resolution, "c_dim": labels, "mapping_layers": layers, "img_channels": channels}
    averaged, raw, discriminator = nets(d, **sizes, architecture=architecture, **shared)
    path = tmp_path / "net.pkl"
    assert write_for_project(path, networks_of(averaged, raw, discriminator), project) == []
    imported = import_checkpoint(path)
    assert imported.config == averaged.cfg
    assert imported.discriminator_config == with_labels_alone(discriminator.cfg)
    assert_equal_arrays(imported.arrays, averaged)
    assert_equal_arrays(imported.raw, raw)
    assert_equal_arrays(imported.discriminator, discriminator)
    assert imported.notes[1:] == ()


@pytest.mark.parametrize("project", sorted(OFFICIAL))
@pytest.mark.parametrize("labels", [0, 3])
def test_the_protocol_of_the_official_loader_yields_complete_modules(nets, tmp_path, monkeypatch, project, labels):
    averaged, raw, discriminator = nets(resolution=16, c_dim=labels, num_fp16_res=1, conv_clamp=256.0)
    path = tmp_path / "net.pkl"
    write_for_project(path, networks_of(averaged, raw, discriminator), project)
    content = load_official(path, OFFICIAL[project], monkeypatch)
    assert list(content) == ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"]
    for name, ours in {"G": raw, "D": discriminator, "G_ema": averaged}.items():
        theirs = content[name]
        assert_equal_arrays(arrays_of(theirs), ours)
        assert not any(module.training for module in theirs.modules())
        assert not any(p.requires_grad for p in theirs.parameters())
        assert {n for n, _ in theirs.named_parameters()} == {n for n, _ in ours.named_parameters()}
        copied = copy.deepcopy(theirs).train().requires_grad_(True)  # as a training does
        copied.register_forward_hook(lambda *_: None)
        copied.load_state_dict(ours.state_dict())
    generator, block = content["G_ema"], content["G_ema"].synthesis.b16
    assert (generator.z_dim, generator.img_resolution, generator.num_ws) == (5, 16, 6)
    assert (block.use_fp16, block.is_last, block.num_conv, block.num_torgb, block.conv0.up) == (True, True, 2, 1, 2)
    assert (content["G_ema"].synthesis.b4.use_fp16, block.conv1.conv_clamp) == (False, 256.0)
    assert generator.mapping.fc0.bias_gain == 0.01
    assert generator.mapping.fc0.weight_gain == pytest.approx(0.01 / math.sqrt(5 if not labels else 12))
    # The arguments with which the official code makes the same network again.
    arguments = generator._init_kwargs
    flat = arguments | arguments.pop("synthesis_kwargs", {}) if project == "stylegan2-ada-pytorch" else arguments
    assert (flat["channel_base"], flat["channel_max"], flat["num_fp16_res"], flat["conv_clamp"]) == (64, 8, 1, 256.0)
    assert flat["mapping_kwargs"]["num_layers"] == 2


@few_examples
@given(cfg=configurations(), seed=st.integers(0, 2**31))
def test_stylegan3_is_read_back_unchanged(tmp_path, cfg, seed):
    generator = randomized(cfg, seed)
    path = tmp_path / "net.pkl"
    write_for_project(path, networks_of(generator), "stylegan3")
    imported = import_checkpoint(path)
    blocks = sum(layer.is_fp16 for layer in cfg.layers())
    assert sum(layer.is_fp16 for layer in imported.config.layers()) == blocks
    assert imported.config == replace(
        cfg, filter_size=imported.config.filter_size, use_radial_filters=imported.config.use_radial_filters
    )
    assert imported.config.layers() == cfg.layers()
    assert_equal_arrays(imported.arrays, generator)


@pytest.mark.parametrize("labels", [0, 3])
def test_stylegan3_is_whole_for_the_protocol_of_the_official_loader(tmp_path, monkeypatch, labels):
    generator = randomized(tiny_config(c_dim=labels), 1)
    path = tmp_path / "net.pkl"
    write_for_project(path, networks_of(generator), "stylegan3")
    content = load_official(path, "training.networks_stylegan3", monkeypatch)
    theirs = content["G_ema"]
    assert_equal_arrays(arrays_of(theirs), generator)
    copy.deepcopy(theirs).train().requires_grad_(True).load_state_dict(generator.state_dict())
    first, last = (theirs.synthesis.get_submodule(theirs.synthesis.layer_names[i]) for i in (0, -1))
    assert (first.up_filter.ndim, first.padding) == (1, [*generator.cfg.layers()[0].padding] * 2)
    assert (last.up_filter, last.down_filter, last.is_torgb) == (None, None, True)
    assert (theirs.mapping.embed is None) == (not labels)


@pytest.mark.parametrize("project", ["stylegan2-ada-pytorch", "rosinality"])
def test_projects_without_stylegan3_refuse_it_by_name(tmp_path, project):
    with pytest.raises(InputError, match="has no StyleGAN3"):
        write_for_project(tmp_path / "net.pkl", networks_of(randomized(tiny_config(), 1)), project)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("project", sorted(OFFICIAL))
def test_a_generator_alone_has_a_discriminator_without_weights(nets, tmp_path, monkeypatch, project):
    averaged, _, _ = nets()
    path = tmp_path / "net.pkl"
    notes = write_for_project(path, networks_of(averaged), project)
    assert notes == ["G is a copy of G_ema: the checkpoint has no other", "D has no weights: the checkpoint has none"]
    content = load_official(path, OFFICIAL[project], monkeypatch)
    assert list(content["D"].parameters()) == []
    assert_equal_arrays(arrays_of(content["G"]), averaged)
    imported = import_checkpoint(path)
    assert imported.discriminator is None
    assert "dropped D: its D has no weights" in imported.notes


@few_examples
@given(
    seed=st.integers(0, 2**31),
    resolution=st.sampled_from([8, 16, 64]),
    layers=st.integers(1, 4),
    channels=st.integers(1, 4),
    plan=st.sampled_from([(64, 8), (128, 16)]),
)
def test_rosinality_files_equal_those_of_its_own_names(nets, tmp_path, seed, resolution, layers, channels, plan):
    torch.manual_seed(seed)
    sizes = {"resolution": resolution, "channel_base": plan[0] * resolution // 8, "channel_max": plan[1], "z_dim": 7}
    d = {"mbstd_group_size": 4}
    averaged, raw, discriminator = nets(d, **sizes, mapping_layers=layers, img_channels=channels)
    path = tmp_path / "net.pt"
    write_for_project(path, networks_of(averaged, raw, discriminator), "rosinality")
    content = torch.load(path, weights_only=True)
    expected = {"g_ema": rosinality_generator(averaged.state_dict()), "g": rosinality_generator(raw.state_dict())}
    expected["d"] = rosinality_discriminator(discriminator.state_dict(), resolution)
    for network, tensors in expected.items():
        assert content[network].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(content[network][name], tensor), (network, name)
    assert torch.equal(content["latent_avg"], averaged.mapping.w_avg)
    imported = import_checkpoint(path)
    assert imported.discriminator_config == with_labels_alone(discriminator.cfg)
    assert_equal_arrays(imported.arrays, averaged)
    assert_equal_arrays(imported.raw | {"mapping.w_avg": arrays_of(raw)["mapping.w_avg"]}, raw)
    assert_equal_arrays(imported.discriminator, discriminator)


def test_the_optimizers_of_rosinality_fit_its_networks(nets, tmp_path):
    averaged, raw, discriminator = nets({"mbstd_group_size": 4}, z_dim=7)
    path = tmp_path / "net.pt"
    write_for_project(path, networks_of(averaged, raw, discriminator), "rosinality")
    content = torch.load(path, weights_only=True)
    for network, optimizer, every in ((raw, "g_optim", 4), (discriminator, "d_optim", 16)):
        adam = torch.optim.Adam(network.parameters(), lr=1)
        adam.load_state_dict(content[optimizer])
        share = every / (every + 1)
        assert adam.param_groups[0]["lr"] == pytest.approx(0.002 * share)
        assert adam.param_groups[0]["betas"] == (0, pytest.approx(0.99**share))
        sum(p.sum() for p in network.requires_grad_(True).parameters()).backward()
        adam.step()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"c_dim": 2, "z_dim": 7}, "labels"),
        ({"architecture": "orig", "z_dim": 7}, "architecture orig"),
        ({}, "z of 5 and w of 7"),
        ({"resample_filter": (1.0, 2.0, 1.0), "z_dim": 7}, r"filter \[1.0, 2.0, 1.0\]"),
    ],
)
def test_rosinality_refuses_by_name_what_its_code_lacks(nets, tmp_path, changes, word):
    averaged, _, _ = nets(**changes)
    with pytest.raises(InputError, match=word):
        write_for_project(tmp_path / "net.pt", networks_of(averaged), "rosinality")
    assert list(tmp_path.iterdir()) == []


def test_rosinality_has_notes_for_what_its_code_has_otherwise(nets, tmp_path):
    averaged, raw, discriminator = nets({"architecture": "skip"}, z_dim=7, conv_clamp=256.0, num_fp16_res=2, img_channels=1)
    notes = " | ".join(write_for_project(tmp_path / "net.pt", networks_of(averaged, raw, discriminator), "rosinality"))
    for words in (
        "other channels: put {4: 8, 8: 8}", "3 channels, these have 1", "style_dim=7, n_mlp=2", "beyond 256 pass", "float32 alone",
        "left out D: rosinality's code has no discriminator with the architecture skip",
    ):  # fmt: skip
        assert words in notes
    usual, _, _ = nets(z_dim=7, resolution=64, channel_base=32768, channel_max=512)
    assert "other channels" not in " ".join(write_for_project(tmp_path / "b.pt", networks_of(usual), "rosinality"))


def test_an_unknown_project_is_named_with_those_that_there_are(nets, tmp_path: Path):
    with pytest.raises(InputError, match=", ".join(PROJECTS)):
        write_for_project(tmp_path / "net.pkl", networks_of(nets()[0]), "tensorflow")
