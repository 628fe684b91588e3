"""Latents and styles in NumPy are those of the PyTorch networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stylert.core.errors import InputError
from stylert.models.stylegan2.networks import Generator
from stylert.models.stylegan2.style_space import map_z, style_index, style_map, style_name, style_slices
from tests.conftest import random_arrays, small_config


@pytest.mark.parametrize("c_dim", [0, 3])
@pytest.mark.parametrize("batch", [1, 5000])
def test_w_is_that_of_the_mapping_network(c_dim: int, batch: int, rng: np.random.Generator) -> None:
    cfg = small_config(c_dim=c_dim, mapping_layers=3)
    arrays = random_arrays(cfg, rng)
    network = Generator(cfg)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    z = rng.standard_normal((batch, cfg.z_dim)).astype(np.float32)
    labels = np.eye(c_dim, dtype=np.float32)[rng.integers(c_dim, size=batch)] if c_dim else None
    c = None if labels is None else torch.from_numpy(labels)
    with torch.no_grad():
        expected = network.mapping(torch.from_numpy(z), c)[:, 0].numpy()
    w = map_z(cfg, arrays, z, labels)
    assert w.dtype == np.float32
    np.testing.assert_allclose(w, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_labels_are_asked_for_where_the_network_has_them(rng: np.random.Generator) -> None:
    for c_dim, labels in ((0, np.zeros((1, 2))), (2, None)):
        cfg = small_config(c_dim=c_dim)
        with pytest.raises(InputError, match="labels"):
            map_z(cfg, random_arrays(cfg, rng), np.zeros((1, cfg.z_dim)), labels)


def test_styles_are_those_of_every_affine_layer(rng: np.random.Generator) -> None:
    cfg = small_config()
    arrays = random_arrays(cfg, rng)
    network = Generator(cfg)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    ws = rng.standard_normal((cfg.num_ws, cfg.w_dim)).astype(np.float32)
    affine = style_map(cfg, arrays)
    styles = (affine.weight * ws[affine.latents]).sum(1) + affine.bias
    for spec in cfg.layers():
        layer = network.synthesis.get_submodule(spec.name)
        expected = layer.affine(torch.from_numpy(ws[spec.ws_index][None])).detach().numpy()[0]
        np.testing.assert_allclose(styles[style_slices(cfg)[spec.name]], expected, rtol=1e-4, atol=1e-5)


def test_the_name_of_a_style_leads_back_to_its_place() -> None:
    cfg = small_config()
    last = list(style_slices(cfg).values())[-1].stop
    assert [style_index(cfg, style_name(cfg, i)) for i in range(last)] == list(range(last))
    assert style_name(cfg, 0) == "b4.conv1.0"


@pytest.mark.parametrize("text", ["", "b4.conv1", "b4.conv0.0", "b4.conv1.x", "b4.conv1.-1", "b4.conv1.99999", "b4.conv1.٣"])
def test_a_style_that_the_network_does_not_have_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        style_index(small_config(), text)
