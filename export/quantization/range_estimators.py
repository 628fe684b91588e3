"""Range estimators: how much of a tensor's range 8 bits cover.

Values outside the range are clipped. A smaller range has finer steps. The four estimators are compared in
docs/precision.md. They read a histogram that is filled sample by sample in constant memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from stylert.export.network_plan import QuantParams

#: `max` clips nothing. `percentile` leaves `TAIL` of the values outside. `entropy` keeps the distribution (the
#: Kullback-Leibler divergence of TensorRT's calibrator; Migacz 2017). `mse` has the least mean square error, relative
#: to each sample's power.
RangeEstimator = Literal["max", "percentile", "entropy", "mse"]

#: Bins of a histogram.
BINS = 4096

#: Values of a sample that are counted, evenly spread. The least and the greatest are taken of all values.
COUNTED_VALUES = 2**18

#: The ranges that `entropy` and `mse` try, as a share of the whole.
CANDIDATES = np.linspace(0.1, 1.0, 60)

#: The share of values outside the range of `percentile`.
TAIL = 1e-6


class Histogram:
    """The values of a tensor over all samples.

    The bins span [-`top`, `top`]. When a value does not fit, `top` doubles and pairs of bins merge.

    Attributes:
        low: The least value, at most 0.
        high: The greatest value, at least 0.
        counts: `[BINS]`.
        relative: `[BINS]`, the sum of each sample's counts divided by its power, so that every sample has the same
            weight.
    """

    def __init__(self) -> None:
        self.top = self.low = self.high = 0.0
        self.counts = np.zeros(BINS)
        self.relative = np.zeros(BINS)

    def add(self, values: np.ndarray) -> None:
        """Add N samples `[N, ...]`."""
        for sample in values.reshape(len(values), -1):
            self.low = min(self.low, float(sample.min()))
            self.high = max(self.high, float(sample.max()))
            self._grow_to(max(-self.low, self.high))
            counted = sample[:: sample.size // COUNTED_VALUES | 1]  # an odd stride visits every column of an image
            counts = np.histogram(counted, BINS, (-self.top or -1.0, self.top or 1.0))[0]
            power = np.square(self.centers) @ counts
            self.counts = self.counts + counts
            self.relative = self.relative + counts / (power or 1.0)

    @property
    def centers(self) -> np.ndarray:
        """The middle value of each bin."""
        return (np.arange(BINS) + 0.5) * (2 * self.top / BINS) - self.top

    def quant_params(self, symmetric: bool, estimator: RangeEstimator = "mse") -> QuantParams:
        """The quantisation with the range that an estimator chooses."""
        if self.top == 0:
            return QuantParams(1.0, 0, symmetric)  # only zeros: any scale represents them
        low, high = self.low, self.high
        if estimator == "percentile":
            low, high = self._percentile_range(symmetric)
        elif estimator == "entropy":
            low, high = self._least_loss_range(self._divergence, symmetric)
        elif estimator == "mse":
            low, high = self._least_loss_range(self._square_error, symmetric)
        return QuantParams.of_range(low, high, symmetric)

    def _grow_to(self, peak: float) -> None:
        if self.top == 0:
            self.top = peak
        while peak > self.top > 0:
            self.top *= 2
            self.counts, self.relative = (np.pad(c.reshape(-1, 2).sum(1), BINS // 4) for c in (self.counts, self.relative))

    def _percentile_range(self, symmetric: bool) -> tuple[float, float]:
        """The range with `TAIL` of the values outside.

        A symmetric range excludes the greatest magnitudes. Otherwise each end excludes half of the share.
        """
        if symmetric:
            magnitudes = (self.counts + self.counts[::-1])[BINS // 2 :]
            too_many_outside = np.cumsum(magnitudes[::-1])[::-1] > TAIL * magnitudes.sum()
            limit = float(np.flatnonzero(too_many_outside)[-1] + 1) * 2 * self.top / BINS
            return -limit, min(limit, max(-self.low, self.high))
        edges = np.linspace(-self.top, self.top, BINS + 1)
        share_below = np.cumsum(self.counts) / self.counts.sum()
        low = edges[np.searchsorted(share_below, TAIL / 2, side="right")]
        high = edges[np.searchsorted(share_below, 1 - TAIL / 2) + 1]
        return max(min(float(low), 0.0), self.low), min(max(float(high), 0.0), self.high)

    def _least_loss_range(self, loss: Callable[[QuantParams], float], symmetric: bool) -> tuple[float, float]:
        if symmetric:
            limits = CANDIDATES * max(-self.low, self.high)
            limit = min(limits, key=lambda r: loss(QuantParams.of_range(-r, r, True)))
            return -limit, limit
        # The two ends hardly depend on each other, so they are searched in turn.
        low, high = self.low, self.high
        for _ in range(2):
            high = min(CANDIDATES * self.high, key=lambda h: loss(QuantParams.of_range(low, h, False)))
            low = min(CANDIDATES * self.low, key=lambda b: loss(QuantParams.of_range(b, high, False)))
        return low, high

    def _square_error(self, params: QuantParams) -> float:
        return float(np.square(_levels(self.centers, params) * params.scale - self.centers) @ self.relative)

    def _divergence(self, params: QuantParams) -> float:
        """The Kullback-Leibler divergence of the clipped distribution p from its quantised form q, in nats."""
        levels = _levels(self.centers, params)
        inside = np.abs(levels * params.scale - self.centers) <= params.scale / 2 * (1 + 1e-9)
        if not inside.any():
            return np.inf
        first, last = np.flatnonzero(inside)[[0, -1]]
        counts_inside = np.where(inside, self.counts, 0.0)
        clipped = counts_inside.copy()
        clipped[first] += self.counts[:first].sum()
        clipped[last] += self.counts[last + 1 :].sum()
        # All bins of one level share its values evenly: quantisation cannot tell them apart.
        level_index = (levels - levels.min()).astype(np.int64)
        values_per_level = np.bincount(level_index, counts_inside)
        bins_per_level = np.bincount(level_index, counts_inside > 0)
        mean_of_level = (values_per_level / np.maximum(bins_per_level, 1))[level_index]
        quantised = np.where(counts_inside > 0, mean_of_level, 0.0)
        p, q = clipped / clipped.sum(), quantised / max(quantised.sum(), 1.0)
        nonzero = p > 0
        return float((p[nonzero] * np.log(p[nonzero] / np.maximum(q[nonzero], 1e-12))).sum())


def _levels(x: np.ndarray, params: QuantParams) -> np.ndarray:
    return np.clip(np.rint(x / params.scale), *params.levels)
