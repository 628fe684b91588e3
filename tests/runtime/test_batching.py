"""A batch of any size is split into chunks that an engine takes, with every image once and as little padding as possible."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.runtime.batching import BatchRange, batch_chunks, limited, profile_for

RANGE = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)).map(lambda t: tuple(sorted(t)))
RANGES = st.lists(RANGE, min_size=1, max_size=3)


@given(n=st.integers(1, 40), ranges=RANGES)
def test_every_image_runs_once_and_in_order_in_a_batch_that_some_range_holds(n: int, ranges: list[BatchRange]) -> None:
    chunks = batch_chunks(n, ranges)
    assert [c.first for c in chunks] == [0, *itertools.accumulate(c.images for c in chunks)][:-1]
    assert sum(c.images for c in chunks) == n
    for chunk in chunks:
        assert 1 <= chunk.images <= chunk.batch
        least, _, most = ranges[profile_for(chunk.batch, ranges)]
        assert least <= chunk.batch <= most


def fewest_computed(n: int, ranges: list[BatchRange]) -> int:
    """The fewest images that can be computed, by trying every size of every range for the first chunk."""
    if n <= 0:
        return 0
    sizes = {size for least, _, most in ranges for size in range(least, most + 1)}
    return min(size + fewest_computed(n - size, ranges) for size in sizes)


@given(ranges=RANGES, data=st.data())
def test_up_to_the_largest_batch_no_other_chunks_compute_fewer_images(ranges: list[BatchRange], data: st.DataObject) -> None:
    n = data.draw(st.integers(1, max(most for _, _, most in ranges)))
    assert sum(c.batch for c in batch_chunks(n, ranges)) == fewest_computed(n, ranges)


def test_single_images_and_batches_take_the_profiles_made_for_them() -> None:
    ranges = [(1, 1, 1), (4, 8, 16)]
    assert [(c.images, c.batch) for c in batch_chunks(1, ranges)] == [(1, 1)]
    assert [(c.images, c.batch) for c in batch_chunks(3, ranges)] == [(1, 1)] * 3
    assert [(c.images, c.batch) for c in batch_chunks(35, ranges)] == [(16, 16), (16, 16), *[(1, 1)] * 3]
    assert profile_for(4, [(1, 1, 16), (1, 8, 16)]) == 0
    assert profile_for(5, [(1, 1, 16), (1, 8, 16)]) == 1
    with pytest.raises(ValueError, match="17"):
        profile_for(17, ranges)


@given(ranges=RANGES, limit=st.integers(1, 12))
def test_a_limit_holds_if_the_engine_takes_a_batch_so_small(ranges: list[BatchRange], limit: int) -> None:
    limited_ranges = limited(ranges, limit)
    smallest = min(least for least, _, _ in ranges)
    assert max(most for _, _, most in limited_ranges) <= max(limit, smallest)
    assert all(any(a <= least and most <= b for a, _, b in ranges) for least, _, most in limited_ranges)
