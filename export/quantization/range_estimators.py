"""Which range of a tensor 8 bits cover: what lies outside is clipped, what lies inside is rounded the finer the less there is.

Four criteria, compared in docs/precision.md. All work on histograms that are filled sample by sample in constant memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from stylert.export.plan import Step

#: `max` clips nothing. `percentile` leaves `TAIL` of the values outside. `entropy` keeps the distribution (the Kullback-Leibler
#: divergence of TensorRT's calibrator; Migacz 2017). `mse` has the least mean square error, relative to each sample's power.
Clipping = Literal["max", "percentile", "entropy", "mse"]

BINS = 4096
COUNTED = 2**18  # values of a sample, evenly spread; its extremes are taken of all
CANDIDATES = np.linspace(0.1, 1.0, 60)
TAIL = 1e-6


class Histogram:
    """Values of a tensor over samples. The range doubles, and pairs of bins merge, when a value does not fit."""

    def __init__(self) -> None:
        self.top = self.low = self.high = 0.0  # bins span [-top, top], values [low, high]
        self.counts = np.zeros(BINS)
        self.relative = np.zeros(BINS)  # every sample's counts over its power, so that each weighs the same

    def add(self, values: np.ndarray) -> None:
        """`[N, …]`: N samples."""
        for sample in values.reshape(len(values), -1):
            self.low, self.high = min(self.low, float(sample.min())), max(self.high, float(sample.max()))
            peak = max(-self.low, self.high)
            if self.top == 0:
                self.top = peak
            while peak > self.top > 0:
                self.top *= 2
                self.counts, self.relative = (np.pad(c.reshape(-1, 2).sum(1), BINS // 4) for c in (self.counts, self.relative))
            thin = sample[:: sample.size // COUNTED | 1]  # an odd stride visits every column
            counts = np.histogram(thin, BINS, (-self.top or -1.0, self.top or 1.0))[0]
            power = np.square(self.centers) @ counts
            self.counts = self.counts + counts
            self.relative = self.relative + counts / (power or 1.0)

    @property
    def centers(self) -> np.ndarray:
        return (np.arange(BINS) + 0.5) * (2 * self.top / BINS) - self.top

    def best_step(self, symmetric: bool, clipping: Clipping = "mse") -> Step:
        """The step that a criterion chooses; zero is always one of its levels."""
        if self.top == 0:
            return Step(1.0, 0, symmetric)  # nothing but zeros: any step represents them
        low, high = self.low, self.high
        if clipping == "percentile":
            low, high = self._quantiles(symmetric)
        elif clipping in ("entropy", "mse"):
            low, high = self._search(self._square_error if clipping == "mse" else self._divergence, symmetric)
        return range_step(low, high, symmetric)

    def _quantiles(self, symmetric: bool) -> tuple[float, float]:
        """The values with `TAIL` of all outside, half on either side, or by magnitude."""
        if symmetric:
            folded = (self.counts + self.counts[::-1])[BINS // 2 :]
            outside = np.cumsum(folded[::-1])[::-1] > TAIL * folded.sum()
            reach = float(np.flatnonzero(outside)[-1] + 1) * 2 * self.top / BINS
            return -reach, min(reach, max(-self.low, self.high))
        edges = np.linspace(-self.top, self.top, BINS + 1)
        share = np.cumsum(self.counts) / self.counts.sum()
        low = edges[np.searchsorted(share, TAIL / 2, side="right")]
        high = edges[np.searchsorted(share, 1 - TAIL / 2) + 1]
        return max(min(float(low), 0.0), self.low), min(max(float(high), 0.0), self.high)

    def _search(self, loss: Callable[[Step], float], symmetric: bool) -> tuple[float, float]:
        """The range with the least loss: symmetric, or along each end in turn, since the two hardly depend on each other."""
        if symmetric:
            reach = max(-self.low, self.high)
            best = min(CANDIDATES * reach, key=lambda r: loss(range_step(-r, r, True)))
            return -best, best
        low, high = self.low, self.high
        for _ in range(2):
            high = min(CANDIDATES * self.high, key=lambda h: loss(range_step(low, h, False)))
            low = min(CANDIDATES * self.low, key=lambda b: loss(range_step(b, high, False)))
        return low, high

    def _square_error(self, step: Step) -> float:
        return float(np.square(_levels(self.centers, step) * step.scale - self.centers) @ self.relative)

    def _divergence(self, step: Step) -> float:
        """Of the clipped distribution from the one that its levels can tell apart, in nats."""
        levels = _levels(self.centers, step)
        inside = np.abs(levels * step.scale - self.centers) <= step.scale / 2 * (1 + 1e-9)
        if not inside.any():
            return np.inf
        first, last = np.flatnonzero(inside)[[0, -1]]
        clipped = np.where(inside, self.counts, 0.0)
        kept = clipped.copy()
        clipped[first] += self.counts[:first].sum()
        clipped[last] += self.counts[last + 1 :].sum()
        index = (levels - levels.min()).astype(np.int64)
        held = np.bincount(index, kept)
        bins = np.bincount(index, kept > 0)
        spread = np.where(kept > 0, (held / np.maximum(bins, 1))[index], 0.0)
        p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1.0)
        seen = p > 0
        return float((p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))).sum())


def _levels(x: np.ndarray, step: Step) -> np.ndarray:
    bottom, top = (-127, 127) if step.symmetric else (-step.zero_point, 255 - step.zero_point)
    return np.clip(np.rint(x / step.scale), bottom, top)


def range_step(low: float, high: float, symmetric: bool) -> Step:
    """The step of [low, high], which holds zero; zero is one of its levels."""
    if symmetric:
        return Step(max(float(max(-low, high)), 1e-12) / 127)
    scale = max(float(high) - float(low), 1e-12) / 255
    return Step(scale, int(np.clip(np.rint(-low / scale), 0, 255)), symmetric=False)
