"""Style levels divide the latents as the layers use them, and style mixing takes each latent from the named side."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.core.errors import InputError
from stylert.core.seeds import MAX_SEED, format_seeds, parse_seeds, z_from_seeds
from stylert.models.stylegan1.config import GeneratorConfig as Stylegan1Config
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.runtime import Bundle, Generator
from stylert.runtime.network_kinds import STYLEGAN1
from stylert.runtime.style_levels import LEVELS, level_indices, mix_styles, parse_levels, ws_resolution

#: Without a deadline: a busy machine is no failure.
no_deadline = settings(deadline=None, max_examples=40)
resolutions = st.integers(2, 12).map(lambda n: 2**n)


@no_deadline
@given(resolutions)
def test_a_latent_belongs_to_the_block_whose_convolution_it_styles(resolution: int) -> None:
    cfg = GeneratorConfig(resolution, channel_base=2**15)
    assert {s.ws_index for s in cfg.layers()} == set(range(cfg.num_ws))
    for layer in cfg.layers():
        if layer.kind == "conv" or layer.resolution == resolution:
            assert ws_resolution(layer.ws_index, cfg.num_ws) == layer.resolution


@no_deadline
@given(resolutions.filter(lambda r: r >= 8))
def test_a_latent_of_stylegan1_belongs_to_the_layer_that_it_styles(resolution: int) -> None:
    cfg = Stylegan1Config(resolution, channel_base=2**15)
    for layer in cfg.layers()[:-1]:
        assert ws_resolution(layer.ws_index, cfg.num_ws, STYLEGAN1) == layer.resolution
    levels = [level_indices(level, cfg.num_ws, STYLEGAN1) for level in LEVELS]
    assert [i for level in levels for i in level] == list(range(cfg.num_ws))
    assert levels[0] == parse_levels("coarse", cfg.num_ws, STYLEGAN1) == [0, 1, 2, 3]


@no_deadline
@given(resolutions)
def test_the_levels_partition_the_latents(resolution: int) -> None:
    num_ws = GeneratorConfig(resolution, channel_base=2**15).num_ws
    assert [i for level in LEVELS for i in level_indices(level, num_ws)] == list(range(num_ws))


def test_the_levels_of_a_1024_px_network_are_these() -> None:
    assert [level_indices(level, 18) for level in LEVELS] == [[0, 1, 2], [3, 4, 5, 6], list(range(7, 18))]
    assert parse_levels("coarse, 5-6,17", 18) == [0, 1, 2, 5, 6, 17]


@pytest.mark.parametrize(
    "text", ["", "rough", "3-1", "0-6", "6", "-1", "1,", "coarse-fine", "fine", "٣", "0" * 99, "1-", "a\nb"]
)
def test_levels_that_a_16_px_network_does_not_have_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(InputError) as e:
        parse_levels(text, 6)
    assert "\n" not in str(e.value)


@no_deadline
@given(st.lists(st.integers(0, 60) | st.integers(0, MAX_SEED), min_size=1, max_size=30))
def test_seeds_as_text_parse_back_in_order(seeds: list[int]) -> None:
    assert parse_seeds(format_seeds(seeds)) == seeds


def test_mixing_all_levels_is_the_column_and_none_is_the_row(bundle: Bundle) -> None:
    with Generator.load(bundle) as g:
        row, columns = g.map(z_from_seeds([1], 24))[0], g.map(z_from_seeds([2, 3, 4], 24))
        np.testing.assert_array_equal(g.synthesize(mix_styles(row, columns, range(6))), g.synthesize(columns))
        np.testing.assert_array_equal(g.synthesize(mix_styles(row, columns, [])), g.synthesize(np.repeat(row[None], 3, 0)))


@no_deadline
@given(st.sets(st.integers(0, 5)))
def test_mixing_takes_each_latent_from_one_side_and_changes_neither(indices: set[int]) -> None:
    row, columns = np.zeros((6, 4), np.float32), np.ones((3, 6, 4), np.float32)
    mixed = mix_styles(row, columns, indices)
    assert {i for i in range(6) if (mixed[:, i] == 1).all()} == indices
    assert mixed.sum() == 3 * 4 * len(indices)
    assert row.max() == 0
    assert columns.min() == 1
