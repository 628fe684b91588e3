"""Histograms count all values, and each estimator chooses a range by its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.export.network_plan import QuantParams
from stylert.export.quantization.range_estimators import TAIL, Histogram, RangeEstimator

ESTIMATORS: list[RangeEstimator] = ["max", "percentile", "entropy", "mse"]


def quantised(x: np.ndarray, params: QuantParams) -> np.ndarray:
    """`x` quantised and dequantised by the definition of the ONNX operators."""
    low, high = (-128, 127) if params.symmetric else (0, 255)
    levels = np.clip(np.rint(x / params.scale) + params.zero_point, low, high) - params.zero_point
    return levels * params.scale


def ends(params: QuantParams) -> tuple[float, float]:
    """The least and the greatest value that `params` can represent."""
    if params.symmetric:
        return -127 * params.scale, 127 * params.scale
    return -params.zero_point * params.scale, (255 - params.zero_point) * params.scale


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "laplace", "uniform", "spike", "lrelu", "positive"]))
def test_mse_chooses_near_the_best_range_and_an_asymmetric_one_is_no_worse(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal(20_000)
    x = {
        "normal": normal,
        "laplace": rng.laplace(size=20_000),
        "uniform": rng.uniform(-1, 1, 20_000),
        "spike": np.concatenate([normal[10:], np.full(10, 60.0)]),
        "lrelu": np.where(normal > 0, normal, 0.2 * normal),
        "positive": np.abs(normal),
    }[kind].astype(np.float32)
    histogram = Histogram()
    histogram.add(x[None])

    def error(params: QuantParams) -> float:
        return float(np.square(quantised(x, params) - x).mean())

    symmetric, asymmetric = (error(histogram.quant_params(s, "mse")) for s in (True, False))
    peak = float(np.abs(x).max())
    assert symmetric <= min(error(QuantParams(s * peak / 127)) for s in np.linspace(0.1, 1, 37)) * 1.1
    assert asymmetric <= symmetric * 1.05
    if kind in ("lrelu", "positive"):
        assert asymmetric < 0.6 * symmetric, "one side needs less range"


@pytest.mark.parametrize("symmetric", [False, True])
def test_max_clips_nothing_and_percentile_almost_nothing(rng: np.random.Generator, symmetric: bool) -> None:
    x = (rng.standard_normal((4, 50_000)) * rng.uniform(0.01, 100)).astype(np.float32)
    histogram = Histogram()
    histogram.add(x)
    low, high = ends(histogram.quant_params(symmetric, "max"))
    level = (high - low) / 255
    assert low - level <= x.min()
    assert x.max() <= high + level
    low, high = ends(histogram.quant_params(symmetric, "percentile"))
    assert np.mean((x < low - level) | (x > high + level)) <= TAIL


def test_entropy_cuts_a_long_thin_tail(rng: np.random.Generator) -> None:
    x = rng.standard_normal(200_000)
    x[:5] = rng.uniform(80, 100, 5)
    histogram = Histogram()
    histogram.add(x[None].astype(np.float32))
    for symmetric in (True, False):
        assert ends(histogram.quant_params(symmetric, "entropy"))[1] < 60
        assert ends(histogram.quant_params(symmetric, "max"))[1] > 79


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_a_histogram_grows_with_its_values_and_loses_none(seed: int, samples: int) -> None:
    rng = np.random.default_rng(seed)
    histogram, values = Histogram(), []
    for _ in range(samples):
        x = (rng.standard_normal((1, 3, 7, 5)) * 10 ** rng.uniform(-3, 3)).astype(np.float32)
        histogram.add(x)
        values.append(x)
    every = np.concatenate(values)
    assert histogram.counts.sum() == every.size
    assert (histogram.low, histogram.high) == (min(every.min(), 0), max(every.max(), 0))
    assert histogram.top >= np.abs(every).max()
    # Zero is the edge between two bins, so no negative value can lie in a positive bin.
    negative_bins = histogram.centers < 0
    assert histogram.counts[negative_bins].sum() == (every < 0).sum()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_tensor_of_zeros_has_a_positive_scale(estimator: RangeEstimator) -> None:
    histogram = Histogram()
    histogram.add(np.zeros((2, 3, 4, 4), np.float32))
    assert histogram.quant_params(True, estimator).scale > 0
    assert histogram.quant_params(False, estimator).scale > 0


@given(st.floats(-1e3, 0), st.floats(0, 1e3))
def test_every_range_is_covered_and_represents_zero(low: float, high: float) -> None:
    for symmetric in (True, False):
        params = QuantParams.of_range(low, high, symmetric)
        assert quantised(np.zeros(1), params) == 0
        bottom, top = ends(params)
        assert bottom <= low + params.scale
        assert top >= high - params.scale
