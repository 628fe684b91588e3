"""Checkpoints are written only if they can be read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stylert.core.errors import CheckpointError
from stylert.models.checkpoint import write_generator
from stylert.models.converters.convert_checkpoint import PROJECTS, write_for_project
from stylert.models.converters.networks import NetworksToWrite
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.models.stylegan2.state_dict import generator_shapes


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((2, 2)), "says"),
        (np.zeros(7), "says"),
        ("abc", "no array of real numbers"),
        ([[1], [1, 2]], "no array of real numbers"),
        ({}, "no array of real numbers"),
        (np.ones((7, 7)) * 1j, "no array of real numbers"),
        (np.zeros((7, 7), "M8[s]"), "no array of real numbers"),
        (10**400, "no array of real numbers"),
        (np.full((7, 7), np.nan), "beyond float32"),
        (np.full((7, 7), 1e300), "beyond float32"),
    ],
)
def test_tensors_that_no_reader_takes_replace_no_good_file(value: object, words: str, tmp_path: Path) -> None:
    cfg = GeneratorConfig(8, z_dim=7, w_dim=7, channel_base=64, channel_max=8, mapping_layers=1)
    arrays = {name: np.ones(shape, np.float32) for name, shape in generator_shapes(cfg).items()}
    assert arrays["mapping.fc0.weight"].shape == (7, 7)
    path = tmp_path / "model.safetensors"
    write_generator(path, cfg, arrays)
    before = path.read_bytes()
    wrong = {**arrays, "mapping.fc0.weight": value}
    with pytest.raises(CheckpointError, match=f"mapping.fc0.weight .*{words}"):
        write_generator(path, cfg, wrong)  # type: ignore[arg-type]
    for project in PROJECTS:
        write_for_project(tmp_path / project, NetworksToWrite(cfg, arrays), project)
        there = (tmp_path / project).read_bytes()
        with pytest.raises(CheckpointError, match=f"mapping.fc0.weight .*{words}"):
            write_for_project(tmp_path / project, NetworksToWrite(cfg, wrong), project)  # type: ignore[arg-type]
        assert (tmp_path / project).read_bytes() == there
    assert path.read_bytes() == before


def test_info_that_is_no_json_is_refused(tmp_path: Path) -> None:
    cfg = GeneratorConfig(8, z_dim=5, w_dim=7, channel_base=64, channel_max=8, mapping_layers=1)
    arrays = {name: np.ones(shape, np.float32) for name, shape in generator_shapes(cfg).items()}
    cyclic: dict[str, object] = {}
    cyclic["a"] = cyclic
    for info in (cyclic, {(1, 2): 3}, {"a": {1}}):
        with pytest.raises(CheckpointError, match="info is not JSON"):
            write_generator(tmp_path / "model.safetensors", cfg, arrays, info=info)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
