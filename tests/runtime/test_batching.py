"""A batch of any size becomes steps that an engine takes: every image once, in order, with little padding."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.runtime.batching import BatchRange, batch_chunks, limited, profile_for

RANGE = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)).map(lambda t: tuple(sorted(t)))
RANGES = st.lists(RANGE, min_size=1, max_size=3)


@given(n=st.integers(1, 40), ranges=RANGES)
def test_every_image_runs_once_in_order_in_a_size_that_some_range_holds(n: int, ranges: list[BatchRange]) -> None:
    found = batch_chunks(n, ranges)
    assert [s.first for s in found] == [0, *itertools.accumulate(s.images for s in found)][:-1]
    assert sum(s.images for s in found) == n
    for step in found:
        assert 1 <= step.images <= step.batch
        least, _, most = ranges[profile_for(step.batch, ranges)]
        assert least <= step.batch <= most


def fewest_computed(n: int, ranges: list[BatchRange]) -> int:
    """By trying every size of every range for the first step."""
    if n <= 0:
        return 0
    sizes = {size for least, _, most in ranges for size in range(least, most + 1)}
    return min(size + fewest_computed(n - size, ranges) for size in sizes)


@given(ranges=RANGES, data=st.data())
def test_up_to_the_largest_size_no_other_steps_compute_fewer_images(ranges: list[BatchRange], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, max(most for _, _, most in ranges)))
    assert sum(s.batch for s in batch_chunks(n, ranges)) == fewest_computed(n, ranges)


def test_single_images_and_batches_each_take_the_profile_made_for_them() -> None:
    ranges = [(1, 1, 1), (4, 8, 16)]
    assert [(s.images, s.batch) for s in batch_chunks(1, ranges)] == [(1, 1)]
    assert [(s.images, s.batch) for s in batch_chunks(3, ranges)] == [(1, 1)] * 3
    assert [(s.images, s.batch) for s in batch_chunks(35, ranges)] == [(16, 16), (16, 16), *[(1, 1)] * 3]
    assert profile_for(4, [(1, 1, 16), (1, 8, 16)]) == 0
    assert profile_for(5, [(1, 1, 16), (1, 8, 16)]) == 1
    with pytest.raises(ValueError, match="17"):
        profile_for(17, ranges)


@given(ranges=RANGES, cap=st.integers(1, 12))
def test_a_limit_is_kept_wherever_the_engine_takes_anything_so_small(ranges: list[BatchRange], cap: int) -> None:
    cut = limited(ranges, cap)
    smallest = min(least for least, _, _ in ranges)
    assert max(most for _, _, most in cut) <= max(cap, smallest)
    assert all(any(a <= least and most <= b for a, _, b in ranges) for least, _, most in cut)
