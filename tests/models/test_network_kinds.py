"""Configurations and checkpoints of every network go through one door, and StyleGAN2's files stay as they were."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from stylert.core.errors import CheckpointError, InputError
from stylert.models.checkpoint import METADATA_KEY, load_generator, read_generator, read_metadata, write_generator
from stylert.models.importers.import_checkpoint import read_stylegan2_generator
from stylert.models.network_kinds import generator_config, generator_shapes
from stylert.models.stylegan2.config import GeneratorConfig as Stylegan2Config
from tests.models.stylegan2.tiny import tiny_generator
from tests.models.stylegan3.tiny import randomized, tiny_config


def stylegan3_checkpoint(path: Path, seed: int = 1) -> Path:
    generator = randomized(tiny_config(), seed)
    write_generator(path, generator.cfg, {name: tensor.numpy() for name, tensor in generator.state_dict().items()})
    return path


def test_a_stylegan3_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = stylegan3_checkpoint(tmp_path / "sg3.safetensors")
    weights, original = read_generator(path), randomized(tiny_config(), 1)
    assert weights.config == tiny_config()
    assert set(weights.arrays) == set(generator_shapes(weights.config)) == set(original.state_dict())
    z = torch.from_numpy(np.random.default_rng(2).standard_normal((2, 5)).astype(np.float32))
    torch.testing.assert_close(load_generator(path)(z), original(z), rtol=0, atol=0)


def test_stylegan2_files_name_no_network_and_keep_their_bytes(tmp_path: Path) -> None:
    cfg = Stylegan2Config(8, z_dim=2, w_dim=2, channel_base=16, channel_max=2, mapping_layers=1)
    arrays = {name: np.ones(shape, np.float32) for name, shape in generator_shapes(cfg).items()}
    write_generator(tmp_path / "sg2.safetensors", cfg, arrays, info={"author": "nobody"})
    with safe_open(tmp_path / "sg2.safetensors", "numpy") as file:
        text = file.metadata()[METADATA_KEY]
    assert json.loads(text)["generator"] == {
        "resolution": 8, "z_dim": 2, "c_dim": 0, "w_dim": 2, "img_channels": 3, "channel_base": 16, "channel_max": 2,
        "mapping_layers": 1, "w_avg_beta": 0.995, "num_fp16_res": 0, "conv_clamp": None,
        "resample_filter": [1.0, 3.0, 3.0, 1.0], "architecture": "skip",
    }  # fmt: skip
    # The digest of this file before there was a second network.
    content = (tmp_path / "sg2.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == "384701b523b6f806fa64eb9b4b8715e0c976bf2c319075f5305ad712210bb008"


def test_configurations_of_unknown_networks_are_refused_by_name() -> None:
    for network in ("stylegan9", 3, None, ["stylegan3"]):
        with pytest.raises(ValueError, match="network must be one of stylegan1, stylegan2, stylegan3"):
            generator_config({"network": network, "resolution": 16})
    with pytest.raises(ValueError, match="unknown field 'architecture'"):
        generator_config({"network": "stylegan3", "resolution": 16, "architecture": "skip"})
    for fields in ({3: 1, "a": 2}, {"a": 2, None: 1, (): 3}):  # JSON has no such keys, and Python has
        with pytest.raises(ValueError, match="unknown field "):
            generator_config(fields)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="network must be 'stylegan2', not 'stylegan3'"):
        Stylegan2Config.from_dict(tiny_config().to_dict())


def test_a_stage_for_stylegan2_refuses_a_stylegan3_checkpoint_by_name(tmp_path: Path) -> None:
    path = stylegan3_checkpoint(tmp_path / "sg3.safetensors")
    with pytest.raises(InputError, match=r"sg3\.safetensors is a StyleGAN3 network, and stylert tune knows StyleGAN2 alone"):
        read_stylegan2_generator(path, "stylert tune")


def test_a_training_snapshot_of_another_network_is_refused(tmp_path: Path) -> None:
    path = stylegan3_checkpoint(tmp_path / "sg3.safetensors")
    metadata = read_metadata(path) | {"kind": "training", "train": {}, "facts": {}}
    save_file({"G_ema.x": np.zeros(1, np.float32)}, tmp_path / "run.safetensors", {METADATA_KEY: json.dumps(metadata)})
    with pytest.raises(InputError, match="is a StyleGAN3 network, and training knows StyleGAN2 alone"):
        read_metadata(tmp_path / "run.safetensors")


def test_a_changed_network_name_is_refused(tmp_path: Path) -> None:
    path = stylegan3_checkpoint(tmp_path / "sg3.safetensors")
    weights, metadata = read_generator(path), read_metadata(path)
    metadata["generator"] = tiny_generator().cfg.to_dict()
    save_file(weights.arrays, tmp_path / "x.safetensors", {METADATA_KEY: json.dumps(metadata)})
    with pytest.raises(CheckpointError, match=r"lacks the tensor synthesis\.b4"):
        read_generator(tmp_path / "x.safetensors")
