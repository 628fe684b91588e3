"""Public files are read by their shapes. Others, damaged and hostile ones are refused in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stylert.core.errors import CheckpointError
from stylert.models.importers.import_checkpoint import import_checkpoint
from stylert.models.restoration.checkpoints import read_restorer
from stylert.models.restoration.gfpgan.config import GfpganConfig
from stylert.models.restoration.gpen.config import GpenConfig
from tests.draws import fresh, fuzz_budget
from tests.models.importers.mutations import damaged
from tests.models.restoration.public_files import EXAMPLE, public_file, public_state


def saved(folder: Path, content: Any) -> Path:
    path = folder / "model.pth"
    torch.save(content, path)
    return path


def test_sizes_and_tensors_of_a_gfpgan_file(tmp_path: Path) -> None:
    state = public_state("gfpgan")
    weights = read_restorer(saved(tmp_path, {**state, "params": state["params_ema"], "epoch": 3}))
    assert weights.config == GfpganConfig(32, (4, 4, 4, 4), (8, 8, 8, 8), 8)
    for name, array in weights.arrays.items():
        np.testing.assert_array_equal(array, state["params_ema"][name].numpy())
    assert set(state["params_ema"]) - set(weights.arrays) == {
        name for name in state["params_ema"] if "style_mlp" in name or name.startswith("toRGB")
    }
    assert "left out 22 tensors" in weights.notes[0]
    assert weights.notes[1:] == ("dropped the entry epoch", "dropped the entry params")


def test_sizes_and_tensors_of_a_gpen_file(tmp_path: Path) -> None:
    state = public_state("gpen")
    weights = read_restorer(saved(tmp_path, state))
    assert weights.config == GpenConfig(32, (8, 8, 8, 8), 8, 8)
    for name, array in weights.arrays.items():
        np.testing.assert_array_equal(array, state[name].numpy())
    assert all("kernel" in name for name in set(state) - set(weights.arrays))
    assert weights.notes == ()


def test_the_names_of_the_published_networks_at_512_px() -> None:
    """Names and shapes as the projects publish them, written out for single tensors of each kind."""
    from stylert.models.restoration.gfpgan.config import tensor_shapes as gfpgan
    from stylert.models.restoration.gpen.config import tensor_shapes as gpen

    decoder = (512, 512, 512, 512, 512, 256, 128, 64)
    shapes = gfpgan(GfpganConfig(512, (256, 256, 256, 256, 256, 128, 64, 32), decoder))
    assert shapes["conv_body_first.weight"] == (32, 3, 1, 1)
    assert shapes["conv_body_down.6.conv2.weight"] == (256, 256, 3, 3)
    assert shapes["conv_body_up.6.skip.weight"] == (32, 64, 1, 1)
    assert shapes["condition_shift.6.2.bias"] == (32,)
    assert shapes["final_linear.weight"] == (8192, 4096)
    assert shapes["stylegan_decoder.style_convs.13.modulated_conv.weight"] == (1, 64, 64, 3, 3)
    assert shapes["stylegan_decoder.to_rgbs.6.modulated_conv.modulation.weight"] == (64, 512)
    assert shapes["stylegan_decoder.noises.noise14"] == (1, 1, 512, 512)
    shapes = gpen(GpenConfig(512, decoder))
    assert shapes["ecd7.0.1.weight"] == (512, 512, 3, 3)
    assert shapes["generator.convs.12.conv.weight"] == (1, 64, 256, 3, 3)
    assert shapes["generator.convs.13.activate.bias"] == (128,)
    assert shapes["generator.to_rgb1.conv.weight"] == (1, 3, 1024, 1, 1)


#: A change of a state dict, for `changed`: the name, and its new value or nothing where it goes.
Change = tuple[str, Any]
GONE = object()


def changed(state: dict[str, Any], change: Change) -> None:
    name, value = change
    state[name] = value
    if value is GONE:
        del state[name]


@pytest.mark.parametrize(
    ("network", "change", "problem"),
    [
        ("gfpgan", ("condition_shift.1.2.bias", GONE), "lacks the tensor condition_shift.1.2.bias"),
        ("gfpgan", ("condition_scale.0.0.weight", GONE), "lacks the tensor condition_scale.0.0.weight"),
        ("gfpgan", ("final_linear.bias", torch.zeros(3)), "final_linear.bias is [3], the network needs [64]"),
        ("gfpgan", ("extra.weight", torch.zeros(3)), "holds the tensor extra.weight, which no GFP-GAN has"),
        ("gfpgan", ("conv_body_first.bias", torch.full((4,), torch.nan)), "values that are not finite"),
        ("gfpgan", ("conv_body_first.bias", 3), "is not a state dict"),
        ("gpen", ("generator.convs.2.noise.weight", GONE), "lacks the tensor generator.convs.2.noise.weight"),
        ("gpen", ("generator.to_rgbs.2.bias", GONE), "its encoder reads 32 px and its decoder makes 16 px"),
        ("gpen", ("ecd1.0.0.kernel", torch.ones(4, 4)), "its filter ecd1.0.0.kernel is not that of the published"),
        ("gpen", ("generator.conv1.activate.bias", torch.zeros(8)), "its decoder adds the encoder's features"),
    ],
)
def test_a_changed_network_is_refused(network: str, change: Change, problem: str, tmp_path: Path) -> None:
    content = public_state(network)
    changed(content.get("params_ema", content), change)
    with pytest.raises(CheckpointError, match=re.escape(problem)) as error:
        read_restorer(saved(tmp_path, content))
    assert str(error.value).startswith(f"cannot import {tmp_path / 'model.pth'}: ")
    assert "\n" not in str(error.value)


def test_gfpgan_with_custom_operators_is_named(tmp_path: Path) -> None:
    file = saved(tmp_path, {"params_ema": {"conv_body_first.0.weight": torch.zeros(1)}})
    with pytest.raises(CheckpointError, match=r"custom operators; stylert reads the clean one"):
        read_restorer(file)


@pytest.mark.parametrize(
    ("content", "problem"),
    [({"g_ema": {"a": 1}}, "it holds no network of GFP-GAN or GPEN, but g_ema"), ([1], "but a value of type list")],
)
def test_other_content_is_refused(content: Any, problem: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=re.escape(problem)):
        read_restorer(saved(tmp_path, content))


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    state = public_state("gpen")
    state["ecd0.0.0.weight"] = Hostile()
    with pytest.raises(CheckpointError):
        read_restorer(saved(tmp_path, state))
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    file = public_file(tmp_path, "gpen", 8)
    whole, rng = file.read_bytes(), fresh()
    for _ in range(fuzz_budget(60, 2000)):
        file.write_bytes(damaged(rng, [whole]))
        try:
            read_restorer(file)
        except CheckpointError as e:
            assert "\n" not in str(e)


@pytest.mark.parametrize(("network", "title"), [("gfpgan", "GFP-GAN"), ("gpen", "GPEN")])
def test_the_importer_of_generators_names_the_command(network: str, title: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"a {title} network.*stylert restorer export"):
        import_checkpoint(public_file(tmp_path, network))


@pytest.mark.parametrize("network", ["gfpgan", "gpen"])
def test_the_example_writes_a_file_that_is_read_and_only_its_own_is_replaced(network: str, tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    command = [sys.executable, str(EXAMPLE), "--network", network, "--resolution", "16", "--width", "0.01", "--out", str(file)]
    for _ in range(2):
        assert subprocess.run(command, capture_output=True, check=True).stdout.startswith(b"wrote ")
    weights = read_restorer(file)
    assert (weights.config.network, weights.config.resolution) == (network, 16)
    assert not any("entry" in note for note in weights.notes)
    for wrong in (("--resolution", "24"), ("--width", "nan"), ("--seed", "-1")):
        done = subprocess.run([*command, *wrong], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert wrong[0] in done.stderr
    file.write_bytes(b"of others")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "stylert did not write the file there" in done.stderr
    assert file.read_bytes() == b"of others"
