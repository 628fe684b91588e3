"""The PyTorch networks equal an independent float64 reference, for networks of any size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.export.restoration.verify import torch_network
from stylert.models.restoration.checkpoints import RestorerConfig, RestorerWeights
from stylert.models.restoration.gfpgan.config import GfpganConfig
from stylert.models.restoration.gfpgan.config import tensor_shapes as gfpgan_shapes
from stylert.models.restoration.gpen.config import GpenConfig
from stylert.models.restoration.gpen.config import tensor_shapes as gpen_shapes
from stylert.models.restoration.sizes import resolutions
from tests.draws import fresh
from tests.models.restoration.float64_reference import REFERENCES

#: Least odd sizes of networks, which exchanged channels would not fit.
CHANNELS = st.integers(1, 7)


@st.composite
def configurations(draw: st.DrawFn) -> RestorerConfig:
    resolution = draw(st.sampled_from([8, 16, 32]))
    levels = len(resolutions(resolution))

    def channels() -> tuple[int, ...]:
        return tuple(draw(st.lists(CHANNELS, min_size=levels, max_size=levels)))

    w_dim = draw(CHANNELS)
    if draw(st.booleans()):
        return GfpganConfig(resolution, channels(), channels(), w_dim, draw(st.booleans()), draw(st.booleans()))
    return GpenConfig(resolution, channels(), w_dim, draw(st.integers(0, 3)))


def random_weights(cfg: RestorerConfig, rng: np.random.Generator) -> RestorerWeights:
    """Weights of about unit gain; noise, biases and styles that no part of the network can leave out unnoticed."""
    shapes = gfpgan_shapes(cfg) if isinstance(cfg, GfpganConfig) else gpen_shapes(cfg)
    arrays = {}
    for name, shape in shapes.items():
        value = rng.standard_normal(shape)
        if isinstance(cfg, GfpganConfig) and name.endswith("weight") and len(shape) in (2, 4):
            value = value / np.sqrt(np.prod(shape[1:]))
        arrays[name] = value.astype(np.float32)
    return RestorerWeights(cfg, arrays)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(cfg=configurations(), seed=st.integers(0, 2**32 - 1))
def test_a_network_equals_the_float64_reference(cfg: RestorerConfig, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = random_weights(cfg, rng)
    photo = rng.uniform(-1, 1, (2, 3, cfg.resolution, cfg.resolution))
    expected = REFERENCES[cfg.network](weights.arrays, cfg)(photo)
    network = torch_network(weights)
    with torch.no_grad():
        exact = network.double()(torch.from_numpy(photo)).numpy()
        single = network.float()(torch.from_numpy(photo).float()).numpy()
    scale = np.abs(expected).max()
    assert np.abs(exact - expected).max() <= 1e-9 * scale
    # float32 itself has errors of this size where demodulation divides by a small number.
    assert np.abs(single - expected).max() <= 1e-3 * scale


@pytest.mark.parametrize("cfg", [GfpganConfig(16, (4, 4, 4), (6, 6, 6), 5), GpenConfig(16, (4, 4, 4), 5, 2)])
def test_every_tensor_of_the_file_changes_the_image(cfg: RestorerConfig) -> None:
    weights = random_weights(cfg, fresh())
    photo = torch.from_numpy(fresh().uniform(-1, 1, (1, 3, 16, 16))).float()
    with torch.no_grad():
        before = torch_network(weights)(photo)
        for name, array in weights.arrays.items():
            changed = {**weights.arrays, name: array + np.float32(0.5)}
            assert not torch.equal(torch_network(RestorerWeights(cfg, changed))(photo), before), name


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: GfpganConfig(24, (1, 1, 1), (1, 1, 1)), "power of two"),
        (lambda: GfpganConfig(4, (1,), (1,)), "power of two"),
        (lambda: GfpganConfig(16, (1, 1), (1, 1, 1)), "3 resolutions, not 2"),
        (lambda: GpenConfig(16, (1, 0, 1)), "channels"),
        (lambda: GpenConfig(16, (1, 1, 1), mapping_layers=65), "mapping network"),
    ],
)
def test_wrong_sizes_are_refused(make: object, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make()  # type: ignore[operator]
