"""The tail of the binomial distribution is that of SciPy, and exact where floating point is not."""

from __future__ import annotations

import pytest
from scipy import stats

from stylert.runtime.watermark.false_positives import false_positive_rate, matches_needed


@pytest.mark.parametrize("bits", [1, 8, 24, 32, 128])
def test_the_rate_is_the_tail_of_the_binomial_distribution(bits: int) -> None:
    for matched in range(bits + 1):
        assert false_positive_rate(matched, bits) == pytest.approx(stats.binom.sf(matched - 1, bits, 0.5), rel=1e-9)


def test_the_ends_are_exact() -> None:
    assert false_positive_rate(0, 32) == 1.0
    assert false_positive_rate(32, 32) == 2.0**-32
    assert false_positive_rate(31, 32) == 33 * 2.0**-32
    assert false_positive_rate(128, 128) == 2.0**-128


@pytest.mark.parametrize(
    ("bits", "rate", "needed"), [(32, 1e-6, 30), (24, 1e-6, 24), (16, 1e-6, None), (8, 0.01, 8), (8, 1, 0)]
)
def test_the_matches_that_are_needed(bits: int, rate: float, needed: int | None) -> None:
    assert matches_needed(bits, rate) == needed


@pytest.mark.parametrize("matched", [-1, 9])
def test_an_impossible_count_is_refused(matched: int) -> None:
    with pytest.raises(ValueError, match="cannot match"):
        false_positive_rate(matched, 8)
