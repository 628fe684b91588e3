"""Seeds mean what they mean in the official tools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.core.errors import InputError
from stylert.core.seeds import MAX_SEED, parse_seeds, z_from_seeds


@given(st.lists(st.integers(0, MAX_SEED), min_size=1, max_size=5), st.integers(1, 64))
def test_z_of_a_seed_does_not_depend_on_its_neighbours(seeds: list[int], z_dim: int) -> None:
    together = z_from_seeds(seeds, z_dim)
    assert together.dtype == np.float32
    for row, seed in zip(together, seeds, strict=True):
        np.testing.assert_array_equal(row, np.random.RandomState(seed).randn(1, z_dim)[0].astype(np.float32))


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 20)), min_size=1, max_size=6))
def test_ranges_and_lists_parse_to_what_they_say(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{a}-{a + n}" if n else f"{a}" for a, n in ranges)
    assert parse_seeds(text) == [s for a, n in ranges for s in range(a, a + n + 1)]


@given(st.text(max_size=12))
def test_any_text_parses_or_is_refused_in_one_line(text: str) -> None:
    try:
        assert all(0 <= s <= MAX_SEED for s in parse_seeds(text, limit=1000))
    except InputError as e:
        assert str(e).strip()


@pytest.mark.parametrize("text", ["", "a", "3-", "-3", "5-2", "1,,2", "1.5", "4294967296", "0-9999999", "٣"])
def test_seed_lists_that_do_not_parse_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_seeds(text)


@pytest.mark.parametrize("seeds", [[], [-1], [2**32], [1.5], [True], ["1"]])
def test_values_that_are_no_seeds_are_refused(seeds: list[object]) -> None:
    with pytest.raises(InputError):
        z_from_seeds(seeds, 8)  # type: ignore[arg-type]
