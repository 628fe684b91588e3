"""`stylert convert`: from stylert's files and from other projects to the code of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stylert.models.checkpoint import load_generator, write_generator
from stylert.models.importers.import_checkpoint import import_checkpoint
from tests.cli.conftest import Run
from tests.models.conftest import randomize
from tests.models.importers.conftest import nets
from tests.models.importers.official_files import official_file
from tests.models.importers.stylegan3_files import stylegan3_file
from tests.models.stylegan3.tiny import randomized, tiny_config

__all__ = ["nets", "randomize"]


@pytest.fixture
def generator(nets, tmp_path: Path) -> Path:
    averaged, _, _ = nets(z_dim=7)
    path = tmp_path / "model.safetensors"
    write_generator(path, averaged.cfg, {name: tensor.detach().numpy() for name, tensor in averaged.state_dict().items()})
    return path


@pytest.mark.parametrize("project", ["stylegan2-ada-pytorch", "stylegan3", "rosinality"])
def test_a_generator_goes_there_and_back(run: Run, generator: Path, project: str) -> None:
    code, out, _ = run("convert", generator, "--to", project, "--out", "net")
    assert (code, out.splitlines()[-1]) == (0, "wrote net")
    assert run("convert", generator, "--to", project, "--out", "net")[0] == 0  # its own file is replaced
    assert run("import", "net", "--out", "back.safetensors")[0] == 0
    ours, back = load_generator(generator).state_dict(), load_generator("back.safetensors").state_dict()
    assert all(torch.equal(back[name], tensor) for name, tensor in ours.items())


def test_a_run_goes_on_elsewhere_with_its_networks(run: Run, nets, tmp_path: Path) -> None:
    averaged, raw, discriminator = nets({"mbstd_group_size": 4}, z_dim=7)
    source = official_file(tmp_path / "net.pkl", averaged, raw, discriminator)
    assert run("import", source, "--out", "model.safetensors", "--training", "run", "--preset", "cpu")[0] == 0
    code, out, _ = run("convert", "run/snapshot.safetensors", "--to", "stylegan3", "--out", "later.pkl")
    assert (code, "left out the optimizers of the run" in out) == (0, True)
    expected, there = import_checkpoint(source), import_checkpoint("later.pkl")
    assert there.config == expected.config
    for name in ("arrays", "raw", "discriminator"):
        assert getattr(there, name).keys() == getattr(expected, name).keys()
        for key, array in getattr(expected, name).items():
            np.testing.assert_array_equal(getattr(there, name)[key], array)
    assert run("convert", "later.pkl", "--to", "rosinality", "--out", "later.pt")[0] == 0
    assert {"g", "d", "g_ema", "g_optim", "d_optim", "latent_avg"} <= torch.load("later.pt", weights_only=True).keys()


def test_mistakes_are_one_line_and_write_nothing(run: Run, generator: Path, tmp_path: Path) -> None:
    notes, sg3 = tmp_path / "notes.pkl", stylegan3_file(tmp_path / "sg3.pkl", randomized(tiny_config(), 1))
    notes.write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for words, arguments in {
        "project 'tf' is not one of": (generator, "--to", "tf", "--out", "net.pkl"),
        "did not write the file there": (generator, "--to", "stylegan3", "--out", notes),
        "it is an input": (generator, "--to", "stylegan3", "--out", generator),
        "has no StyleGAN3": (sg3, "--to", "rosinality", "--out", "net.pt"),
        "does not exist": (tmp_path / "gone.safetensors", "--to", "stylegan3", "--out", "net.pkl"),
    }.items():
        code, out, err = run("convert", *arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), err
        assert words.lower() in err.lower()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
