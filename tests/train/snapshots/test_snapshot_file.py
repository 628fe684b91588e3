"""A snapshot is refused by the shapes in its header, before anything of the size that its configuration says is made."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from stylert.core.errors import CheckpointError
from stylert.models.checkpoint import read_metadata
from stylert.train.loop import Trainer
from stylert.train.snapshots.snapshot_file import read_config, read_snapshot, write_snapshot
from stylert.train.snapshots.trainer_state import trainer_state
from tests.train.small_runs import config


@pytest.fixture
def snapshot(dataset, tmp_path):
    """The path of a snapshot of a small run with labels."""
    trainer = Trainer(config(c_dim=2), dataset)
    write_snapshot(tmp_path / "s.safetensors", trainer.cfg, *trainer_state(trainer))
    return tmp_path / "s.safetensors"


def rewrite(path, generator=(), discriminator=(), **train):
    """Change the configuration of a snapshot in both places of its metadata. The tensors stay."""
    metadata = read_metadata(path)
    metadata["generator"] |= dict(generator)
    metadata["train"] |= {**train, "generator": metadata["generator"]}
    metadata["train"]["discriminator"] |= dict(discriminator)
    save_file(load_file(path), path, {"stylert": json.dumps(metadata)})


@pytest.mark.parametrize(
    ("generator", "discriminator", "tensor"),
    [
        ({"channel_max": 65536, "channel_base": 2**28}, {}, r"G\.synthesis\.b4"),
        ({"z_dim": 65536}, {}, r"G\.mapping\.fc0\.weight"),
        ({"w_dim": 65536}, {}, r"G\.synthesis\.b4\.conv1\.affine\.weight"),
        ({"mapping_layers": 64}, {}, r"G\.mapping\.fc1\.weight"),
        ({"resolution": 4096, "channel_base": 4096}, {"resolution": 4096, "channel_base": 4096}, r"G\."),
        ({"c_dim": 65536}, {"c_dim": 65536}, r"G\.mapping\.embed\.weight"),
        ({}, {"channel_max": 65536, "channel_base": 2**28}, r"D\.b8"),
        ({}, {"mapping_layers": 64}, r"D\.mapping\.fc"),
    ],
)
def test_a_configuration_that_is_not_of_the_tensors_is_refused_by_name(snapshot, generator, discriminator, tensor, monkeypatch):
    assert read_config(snapshot) == config(c_dim=2)
    rewrite(snapshot, generator, discriminator)
    for made in ("empty", "zeros", "ones", "randn"):
        monkeypatch.setattr(torch, made, lambda *args, **kwargs: pytest.fail("memory was taken"))
    with pytest.raises(CheckpointError, match=tensor) as e:
        read_config(snapshot)
    assert "lacks the tensor" in str(e.value) or "its configuration says" in str(e.value)


def test_the_pixels_of_a_projected_discriminator_are_held_to_their_tensors(unlabelled, tmp_path):
    """The discriminator of pixels stands beside heads, whose sizes no configuration can raise much."""
    cfg = replace(config(), projected=32, projected_pixels=8)
    trainer = Trainer(config(), unlabelled)
    tensors, facts = trainer_state(trainer)
    tensors = {k.replace("D.", "D.pixels.", 1) if k.startswith("D.") else k: t for k, t in tensors.items()}
    path = tmp_path / "s.safetensors"
    write_snapshot(path, cfg, tensors, facts)
    assert read_snapshot(path, cfg)[1] == facts
    rewrite(path, discriminator={"channel_max": 65536, "channel_base": 2**28})
    with pytest.raises(CheckpointError, match=r"D\.pixels\.b8"):
        read_config(path)
    rewrite(path, discriminator={"channel_max": 4, "channel_base": 32}, projected_pixels=4096)
    with pytest.raises(CheckpointError, match="no valid training configuration"):
        read_config(path)
