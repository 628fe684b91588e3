"""Checkpoints that are being written: a crash, a kill, another command in the folder, and the permissions of the file."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stylert.core.errors import StylertError
from stylert.core.files.partials import remove_stale_partials
from stylert.models import checkpoint
from stylert.models.checkpoint import read_metadata, write_generator
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.state_dict import generator_shapes
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.snapshots import snapshot_file
from tests.faults import forget_swept_folders

CFG = GeneratorConfig(8, z_dim=4, w_dim=4, c_dim=2, channel_base=32, channel_max=3, mapping_layers=1)


def save_by_numpy(path):
    write_generator(path, CFG, {name: np.ones(shape, np.float32) for name, shape in generator_shapes(CFG).items()})


def save_by_torch(path):
    cfg = TrainConfig(CFG, DiscriminatorConfig(8, channel_base=32, channel_max=3), batch=4, kimg=1)
    snapshot_file.write_snapshot(path, cfg, {"pl_mean": torch.zeros([])}, {"nimg": 0, "step": 0})


writers = pytest.mark.parametrize(
    ("save", "module"), [(save_by_numpy, checkpoint), (save_by_torch, snapshot_file)], ids=["generator", "snapshot"]
)


@writers
@pytest.mark.parametrize("error", [RuntimeError("power cut"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_crash_while_writing_leaves_the_earlier_file(save, module, tmp_path, monkeypatch, error):
    path = tmp_path / "m.safetensors"
    save(path)
    whole = path.read_bytes()

    def crash(tensors, file, metadata):
        Path(file).write_bytes(whole[:100])
        raise error

    monkeypatch.setattr(module, "save_file", crash)
    with pytest.raises((type(error), StylertError)):
        save(path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path], "and nothing beside it"


@writers
def test_another_command_in_the_folder_leaves_a_checkpoint_that_is_being_written(save, module, tmp_path, monkeypatch):
    write, sweep = module.save_file, "from stylert.core.files.partials import *; remove_stale_partials(Path(sys.argv[1]))"
    left = []

    def interrupted(tensors, file, metadata):
        write(tensors, file, metadata)
        subprocess.run([sys.executable, "-c", f"import sys; {sweep}", tmp_path], check=True)
        left.extend(tmp_path.iterdir())

    monkeypatch.setattr(module, "save_file", interrupted)
    save(tmp_path / "m.safetensors")
    assert len(left) == 1, "the partial, which the other process has seen and left"
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert read_metadata(tmp_path / "m.safetensors")["version"] == 1


@pytest.mark.parametrize("save", [save_by_numpy, save_by_torch])
def test_a_kill_amid_the_write_of_a_checkpoint_leaves_what_the_next_command_removes(save, tmp_path, monkeypatch):
    """The limit of a file's size ends the process within the library, as SIGKILL would."""
    save(tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.models.test_interrupted_checkpoints import {save.__name__}
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(whole) // 2}, {len(whole) // 2}))
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
{save.__name__}(Path(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "m.safetensors"])
    assert done.returncode == -signal.SIGXFSZ
    assert len(list(tmp_path.iterdir())) == 2, "the write was under way"
    forget_swept_folders(monkeypatch)
    remove_stale_partials(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    assert (tmp_path / "m.safetensors").read_bytes() == whole


@pytest.mark.parametrize("save", [save_by_numpy, save_by_torch])
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_checkpoint_has_the_permissions_that_the_umask_gives_and_the_next_one_those_of_the_first(save, mask, tmp_path):
    before = os.umask(mask)
    try:
        (tmp_path / "other").touch()
        save(tmp_path / "m.safetensors")
        assert (tmp_path / "m.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
        (tmp_path / "m.safetensors").chmod(0o640)
        save(tmp_path / "m.safetensors")
        assert (tmp_path / "m.safetensors").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)
