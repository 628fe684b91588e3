"""A snapshot is refused by its header, before anything of the size that it says is made. A broken state is not written."""

import json
import math
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from stylert.core.errors import CheckpointError
from stylert.models.checkpoint import read_metadata
from stylert.train.loop import Trainer
from stylert.train.snapshots.run_folder import save
from stylert.train.snapshots.snapshot_file import read_config, read_snapshot, write_snapshot
from stylert.train.snapshots.trainer_state import restore_state, trainer_state
from stylert.train.transfer import read_networks
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


BYTES = {"BOOL": 1, "U8": 1, "F8_E4M3": 1, "BF16": 2, "F16": 2, "F32": 4, "U32": 4, "C64": 8}


def add_holes(path, *tensors):
    """Add tensors (name, type, shape) of holes to a snapshot, or put them in the place of others. The digest stays."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header, size = json.loads(data[8:end]), len(data) - end
    for name, dtype, shape in tensors:
        if name in header:
            header["filler"] = header[name]  # the format allows no bytes without a tensor
        begin, size = size, size + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, size]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    os.truncate(path, 8 + len(text) + size)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "BF16", "F16", "BOOL", "U32", "C64"])
@pytest.mark.parametrize(
    "name", ["G.synthesis.b4.conv1.bias", "G_ema.mapping.w_avg", "opt_D.exp_avg.b8.conv0.bias", "opt_G.step.mapping.fc0.bias"]
)
def test_a_tensor_of_another_type_is_refused_by_name(dataset, tmp_path, dtype, name):
    trainer, path = Trainer(config(c_dim=2), dataset), tmp_path / "s.safetensors"
    trainer.train_step()
    tensors, facts = trainer_state(trainer)
    write_snapshot(path, trainer.cfg, tensors, facts)
    add_holes(path, (name, dtype, tensors[name].shape))
    with pytest.raises(CheckpointError, match=f"{name} is of type {dtype}, and a snapshot holds F32"):
        read_snapshot(path, trainer.cfg)
    with pytest.raises(CheckpointError):
        read_networks(path)


def test_a_tensor_that_is_no_part_of_a_run_is_neither_read_nor_counted(snapshot):
    before, facts = read_snapshot(snapshot, config(c_dim=2))
    more = (("x", "U8"), ("y", "F8_E4M3"), ("opt_G.exp_avg.none", "U8"), ("D.heads.0", "U8"))
    add_holes(snapshot, *((name, dtype, [2**30]) for name, dtype in more))
    tensors, now = read_snapshot(snapshot, config(c_dim=2))
    assert (tensors.keys(), now) == (before.keys(), facts)
    assert all(torch.equal(t, before[name]) for name, t in tensors.items())
    assert read_networks(snapshot)["D"].keys() == {k.removeprefix("D.") for k in before if k.startswith("D.")}


def test_the_tensors_of_a_projected_discriminator_have_a_bound_together(unlabelled, tmp_path):
    trainer, path = Trainer(config(), unlabelled), tmp_path / "s.safetensors"
    write_snapshot(path, replace(config(), projected=32), *trainer_state(trainer))
    read_config(path)
    add_holes(path, *((f"D.heads.{i}", "F32", [2**26]) for i in range(4)))
    with pytest.raises(CheckpointError, match="values beyond those that its configuration needs"):
        read_config(path)


def test_a_snapshot_without_a_configuration_of_a_run_is_refused_by_one_sentence(snapshot):
    metadata = read_metadata(snapshot)
    del metadata["train"]
    save_file(load_file(snapshot), snapshot, {"stylert": json.dumps(metadata)})
    with pytest.raises(CheckpointError, match="has no configuration of its run"):
        read_config(snapshot)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "name", ["G.mapping.fc0.weight", "D.b8.conv0.weight", "G_ema.mapping.w_avg", "opt_D.exp_avg_sq.b4.out.bias", "pl_mean"]
)
def test_a_state_that_is_not_finite_leaves_the_last_good_snapshot(unlabelled, tmp_path, name, value):
    trainer = Trainer(config(), unlabelled)
    trainer.train_step()
    save(trainer, tmp_path, keep=1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    trainer.train_step()
    with torch.no_grad():
        tensors, facts = trainer_state(trainer)
        tensors[name][(-1,) * tensors[name].ndim] = value
    with pytest.raises(
        CheckpointError, match=f"is not written: {name} holds values that are not finite at 0.0 kimg: lower --lr"
    ):
        save(trainer, tmp_path, keep=1)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    with pytest.raises(CheckpointError, match=f"tensor {name} holds values that are not finite"):
        restore_state(Trainer(config(), unlabelled), tensors, facts)
