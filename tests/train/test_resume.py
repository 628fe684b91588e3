"""Resuming: the same steps as a run that went on, from memory and from files, and with changed settings."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stylert.core.errors import CheckpointError, DataError
from stylert.models.checkpoint import read_metadata
from stylert.models.stylegan2.config import DiscriminatorConfig
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.data.dataset import ImageDataset
from stylert.train.loop import Trainer, train
from stylert.train.snapshots.trainer_state import restore_state, trainer_state
from tests.train.small_runs import NETWORK, assert_same_state, config


@pytest.mark.parametrize("half", ["none", "bf16"])
def test_a_resumed_run_makes_the_same_steps_as_one_that_went_on(dataset, rng, half):
    before, after = (int(n) for n in rng.integers(1, 6, 2))
    cfg = config(c_dim=2, half=half)
    straight = Trainer(cfg, dataset)
    for _ in range(before):
        straight.train_step()
    tensors, facts = trainer_state(straight)
    tensors = {k: v.clone() for k, v in tensors.items()}
    statistics = [straight.train_step() for _ in range(after)]
    torch.manual_seed(0)  # a new process has another random state
    resumed = Trainer(cfg, dataset)
    restore_state(resumed, tensors, json.loads(json.dumps(facts)))
    assert [resumed.train_step() for _ in range(after)] == statistics
    assert_same_state(resumed, straight)
    assert (resumed.nimg, resumed.step) == (4 * (before + after), before + after)


def test_a_snapshot_of_an_older_version_goes_on_with_its_own_step_counters(dataset):
    """Older versions made no step of Adam for parameters that a phase does not reach, so their counters are lower."""
    old, new = Trainer(config(c_dim=2), dataset), Trainer(config(c_dim=2), dataset)
    old.train_step()
    tensors, facts = trainer_state(old)
    late = "opt_G.step.synthesis.b8.torgb.bias"
    tensors = {k: v.clone() for k, v in tensors.items()} | {late: torch.tensor(1.0)}
    restore_state(new, tensors, facts)
    new.train_step()
    assert trainer_state(new)[0][late] == 2
    assert trainer_state(new)[0]["opt_G.step.synthesis.b8.conv1.bias"] == 3


def test_the_state_holds_everything_that_a_step_changes(dataset):
    trainer = Trainer(config(c_dim=2), dataset)
    trainer.train_step()
    names = set(trainer_state(trainer)[0])
    for network in ("G", "D"):
        for k, _ in getattr(trainer, network).named_parameters():
            assert {f"opt_{network}.{slot}.{k}" for slot in ("step", "exp_avg", "exp_avg_sq")} <= names
    for network in ("G", "D", "G_ema"):
        assert {f"{network}.{k}" for k in getattr(trainer, network).state_dict()} <= names
    assert {"pl_mean", "rng"} <= names


def test_a_run_resumed_from_files_ends_with_the_same_files(unlabelled, tmp_path):
    train(config(kimg=0.04), unlabelled, tmp_path / "straight")
    train(config(kimg=0.016), unlabelled, tmp_path / "first")
    snapshot = tmp_path / "first" / "snapshot.safetensors"
    result = train(config(kimg=0.04), unlabelled, tmp_path / "second", resume=snapshot)
    assert result == tmp_path / "second" / "model.safetensors"
    assert result.read_bytes() == (tmp_path / "straight" / "model.safetensors").read_bytes()
    straight, second = (load_file(tmp_path / run / "snapshot.safetensors") for run in ("straight", "second"))
    assert straight.keys() == second.keys()
    assert all(torch.equal(t, second[name]) for name, t in straight.items())
    assert read_metadata(snapshot)["facts"] == {"nimg": 16, "step": 4}


def test_refuses_to_resume_other_networks_and_damaged_snapshots(unlabelled, tmp_path):
    train(config(), unlabelled, tmp_path)
    path = tmp_path / "snapshot.safetensors"
    other = TrainConfig(config().generator, DiscriminatorConfig(**NETWORK, architecture="orig"), batch=4, kimg=1)
    with pytest.raises(CheckpointError, match="another configuration"):
        train(other, unlabelled, tmp_path, resume=path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match="not a whole safetensors"):
        train(config(), unlabelled, tmp_path, resume=path)
    path.write_bytes(whole)
    tensors = load_file(path)
    metadata = json.dumps({k: v for k, v in read_metadata(path).items() if k != "sha256"})
    for name in ("pl_mean", "rng", "D.b4.fc.weight", "opt_G.exp_avg.synthesis.b4.const"):
        save_file({k: v for k, v in tensors.items() if k != name}, path, {"stylert": metadata})
        with pytest.raises(CheckpointError, match=f"lacks the tensor {name}"):
            train(config(), unlabelled, tmp_path, resume=path)
        save_file(tensors | {name: torch.zeros(3, 1, 7, dtype=tensors[name].dtype)}, path, {"stylert": metadata})
        with pytest.raises(CheckpointError, match=rf"{name} has the shape \[3, 1, 7\]"):
            train(config(), unlabelled, tmp_path, resume=path)
    save_file(tensors | {"rng": torch.zeros_like(tensors["rng"])}, path, {"stylert": metadata})
    with pytest.raises(CheckpointError, match="random state"):
        train(config(), unlabelled, tmp_path, resume=path)


def test_tensors_that_a_snapshot_has_beyond_its_networks_are_passed_over(unlabelled):
    a, b = Trainer(config(), unlabelled), Trainer(config(), unlabelled)
    a.train_step()
    tensors, facts = trainer_state(a)
    restore_state(b, tensors | {"G.more": torch.zeros(1), "more": torch.zeros(1)}, facts)
    assert_same_state(a, b)


def test_a_subset_and_mirror_images_are_kept_over_a_resume(dataset, tmp_path):
    cfg = config(c_dim=2, subset=3, mirror=True, seed=4)
    trainer = Trainer(cfg, dataset)
    assert len(trainer.dataset) == 6
    whole = {image.tobytes(): label for image, label in zip(dataset.images, dataset.labels, strict=True)}
    for image, label in zip(trainer.dataset.images[:3], trainer.dataset.labels[:3], strict=True):
        np.testing.assert_array_equal(whole[image.tobytes()], label)
    np.testing.assert_array_equal(trainer.dataset.images[3:], trainer.dataset.images[:3][..., ::-1])
    train(cfg, dataset, tmp_path / "straight")
    train(config(c_dim=2, subset=3, mirror=True, seed=4, kimg=0.008), dataset, tmp_path / "first")
    train(cfg, dataset, tmp_path / "second", resume=tmp_path / "first" / "snapshot.safetensors")
    files = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("straight", "second")]
    assert files[0] == files[1]
    with pytest.raises(DataError, match="7 images, which is fewer than the subset of 8"):
        Trainer(config(c_dim=2, subset=8), dataset)


KILLED = """
import sys, time, torch
import stylert.train.snapshots.snapshot_file as snapshot_file
from stylert.train.data.dataset import ImageDataset
from stylert.train.loop import train
from tests.train.small_runs import config
torch.set_num_threads(1)
write, path = snapshot_file.save_file, sys.argv[2]

def slow(tensors, file, metadata):
    write(tensors, file, metadata)
    with open(file, "r+b") as f:
        f.truncate(f.seek(0, 2) // 2)
    print("half written", flush=True)
    time.sleep(100)

snapshot_file.save_file = slow
train(config(kimg=1), ImageDataset(sys.argv[1]), path, resume=f"{path}/snapshot.safetensors", snap_kimg=0.02)
"""


def test_a_kill_during_a_write_leaves_the_last_snapshot_to_resume_from(rng, write_dataset, tmp_path):
    data = write_dataset({f"{i}.png": rng.integers(0, 256, (8, 8, 3), np.uint8) for i in range(7)})
    out, dataset = tmp_path / "run", ImageDataset(data)
    train(config(), dataset, out)
    whole = (out / "snapshot.safetensors").read_bytes()
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n{KILLED}"
    with subprocess.Popen([sys.executable, "-c", code, data, out], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "half written\n"
        process.kill()
    assert (out / "snapshot.safetensors").read_bytes() == whole
    train(config(kimg=0.04), dataset, out, resume=out / "snapshot.safetensors")
    assert read_metadata(out / "snapshot.safetensors")["facts"]["nimg"] == 40


def test_changed_settings_are_used_and_recorded_over_all_resumes(unlabelled, tmp_path):
    snapshot = tmp_path / "snapshot.safetensors"
    train(config(), unlabelled, tmp_path)
    train(config(kimg=0.04), unlabelled, tmp_path, resume=snapshot)
    assert "changes" not in read_metadata(snapshot)["facts"]  # a longer run is no other run
    second = {"r1_gamma": 3.0, "lr": 0.01, "aug": "ada", "aug_p": 0.25, "ada_target": -1.0, "ada_kimg": 0.016}
    train(config(kimg=0.06, **second), unlabelled, tmp_path, resume=snapshot)
    train(config(kimg=0.08, **(second | {"lr": 0.02})), unlabelled, tmp_path, resume=snapshot)
    old = config()
    changes = {name: [getattr(old, name), value] for name, value in second.items()}
    expected = [{"kimg": 0.04, **changes}, {"kimg": 0.06, "lr": [0.01, 0.02]}]
    saved = read_metadata(snapshot)
    assert saved["facts"]["changes"] == expected
    assert saved["train"]["lr"] == 0.02
    assert saved["facts"]["ada"]["p"] == 1.0  # it rose from 0.25
    lines = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert [{"kimg": line["kimg"], **line["changed"]} for line in lines if "changed" in line] == expected
    tensors = load_file(snapshot)
    save_file(tensors, snapshot, {"stylert": json.dumps(saved | {"facts": saved["facts"] | {"changes": 1}})})
    with pytest.raises(CheckpointError, match="changed settings"):
        train(config(kimg=0.08, **(second | {"lr": 0.02})), unlabelled, tmp_path, resume=snapshot)


def test_a_changed_learning_rate_and_gamma_take_the_steps_of_a_run_that_has_them(unlabelled):
    before = Trainer(config(), unlabelled)
    before.train_step()
    tensors, facts = trainer_state(before)
    changed, expected = Trainer(config(lr=0.03, r1_gamma=2.0), unlabelled), Trainer(config(), unlabelled)
    for trainer in (changed, expected):
        restore_state(trainer, {k: v.clone() for k, v in tensors.items()}, facts)
    expected.cfg = expected.phase_losses.cfg = changed.cfg
    for optimizer, interval in ((expected.opt_G, 2), (expected.opt_D, 3)):
        optimizer.param_groups[0]["lr"] = 0.03 * interval / (interval + 1)
    for trainer in (changed, expected):
        torch.manual_seed(1)
        for _ in range(3):
            trainer.train_step()
    assert_same_state(changed, expected)


def test_a_class_balanced_run_resumes_exactly(dataset, tmp_path):
    cfg = config(c_dim=2, class_balanced=True, mirror=True, subset=5, kimg=0.04)
    train(cfg, dataset, tmp_path / "straight")
    train(replace(cfg, kimg=0.02), dataset, tmp_path / "first")
    train(cfg, dataset, tmp_path / "second", resume=tmp_path / "first" / "snapshot.safetensors")
    files = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("straight", "second")]
    assert files[0] == files[1]
    labels = Trainer(cfg, dataset).loader.batch(8)[1]
    assert labels.sum(0).tolist() == [2, 2]
