"""Checkpoints of forks for images that are not square: the shape of the constant tells the shape of the images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import InputError
from stylert.models.converters.convert_checkpoint import write_for_project
from stylert.models.converters.networks import NetworksToWrite
from stylert.models.importers.import_checkpoint import import_checkpoint
from tests.models.importers.official_files import official_file
from tests.models.importers.rosinality_files import rosinality_file

CONSTS = [(4, 8), (3, 5), (7, 4)]


@pytest.mark.parametrize("const", CONSTS)
@pytest.mark.parametrize(("writer", "suffix"), [(official_file, "pkl"), (rosinality_file, "pt")])
def test_networks_of_other_shapes_are_read_with_their_discriminator(
    nets: Any, tmp_path: Path, const: tuple[int, int], writer: Any, suffix: str
) -> None:
    sides = {"const_height": const[0], "const_width": const[1]}
    width = {} if suffix == "pkl" else {"z_dim": 7}  # rosinality has one width for z and w
    generator, raw, discriminator = nets(sides | ({} if suffix == "pkl" else {"mbstd_group_size": 4}), **sides, **width)
    imported = import_checkpoint(writer(tmp_path / f"a.{suffix}", generator, raw, discriminator), training=True)
    assert (imported.config.height, imported.config.width) == (const[0] * 2, const[1] * 2)
    for name, tensor in generator.state_dict().items():
        np.testing.assert_array_equal(imported.arrays[name], tensor.numpy())
    assert imported.discriminator is not None
    np.testing.assert_array_equal(imported.discriminator["b4.fc.weight"], discriminator.state_dict()["b4.fc.weight"].numpy())


@pytest.mark.parametrize("project", ["stylegan2-ada-pytorch", "stylegan3", "rosinality"])
def test_a_project_whose_code_has_squares_alone_is_refused_by_name(nets: Any, tmp_path: Path, project: str) -> None:
    generator, _, _ = nets(const_height=4, const_width=8, z_dim=7)
    arrays = {name: tensor.numpy() for name, tensor in generator.state_dict().items()}
    with pytest.raises(InputError, match=r"takes square images .* this network has 16x8 px"):
        write_for_project(tmp_path / "a.pkl", NetworksToWrite(generator.cfg, arrays), project)
    assert list(tmp_path.iterdir()) == []
