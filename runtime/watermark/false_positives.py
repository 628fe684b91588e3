"""How likely an unmarked image is to match a key: the tail of a binomial distribution, exactly.

A key is drawn like coins, without a look at any image. So each bit that is read from an unmarked image matches the key with
probability 1/2, whatever the decoder does.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb


def false_positive_rate(matched: int, bits: int) -> float:
    """The probability that at least `matched` of `bits` fair coins match. It is computed in whole numbers.

    Raises:
        ValueError: `matched` does not lie in 0 to `bits`.
    """
    if not 0 <= matched <= bits:
        raise ValueError(f"of {bits} bits {matched} cannot match")
    return float(Fraction(sum(comb(bits, k) for k in range(matched, bits + 1)), 2**bits))


def matches_needed(bits: int, rate: float) -> int | None:
    """The least number of matches whose false-positive rate is at most `rate`. None if all bits are too few."""
    return next((k for k in range(bits + 1) if false_positive_rate(k, bits) <= rate), None)
