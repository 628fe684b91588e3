"""Histograms count what they are given, and each criterion chooses the range that it is defined by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.export.plan import Step
from stylert.export.quantization.range_estimators import TAIL, Clipping, Histogram, range_step

CLIPPINGS: list[Clipping] = ["max", "percentile", "entropy", "mse"]


def quantised(x: np.ndarray, step: Step) -> np.ndarray:
    """`x` through the ONNX operators' definition."""
    low, high = (-128, 127) if step.symmetric else (0, 255)
    return (np.clip(np.rint(x / step.scale) + step.zero_point, low, high) - step.zero_point) * step.scale


def ends(step: Step) -> tuple[float, float]:
    if step.symmetric:
        return -127 * step.scale, 127 * step.scale
    return -step.zero_point * step.scale, (255 - step.zero_point) * step.scale


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "laplace", "uniform", "spike", "lrelu", "positive"]))
def test_mse_chooses_near_the_best_step_and_an_asymmetric_one_is_no_worse(seed: int, kind: str) -> None:
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

    def error(step: Step) -> float:
        return float(np.square(quantised(x, step) - x).mean())

    symmetric, asymmetric = (error(histogram.best_step(s, "mse")) for s in (True, False))
    peak = float(np.abs(x).max())
    assert symmetric <= min(error(Step(s * peak / 127)) for s in np.linspace(0.1, 1, 37)) * 1.1
    assert asymmetric <= symmetric * 1.05
    if kind in ("lrelu", "positive"):
        assert asymmetric < 0.6 * symmetric, "one side needs less range"


@pytest.mark.parametrize("symmetric", [False, True])
def test_max_clips_nothing_and_percentile_almost_nothing(rng: np.random.Generator, symmetric: bool) -> None:
    x = (rng.standard_normal((4, 50_000)) * rng.uniform(0.01, 100)).astype(np.float32)
    histogram = Histogram()
    histogram.add(x)
    low, high = ends(histogram.best_step(symmetric, "max"))
    rounding = (high - low) / 255
    assert low - rounding <= x.min()
    assert x.max() <= high + rounding
    low, high = ends(histogram.best_step(symmetric, "percentile"))
    assert np.mean((x < low - rounding) | (x > high + rounding)) <= TAIL


def test_entropy_cuts_a_long_thin_tail(rng: np.random.Generator) -> None:
    x = rng.standard_normal(200_000)
    x[:5] = rng.uniform(80, 100, 5)
    histogram = Histogram()
    histogram.add(x[None].astype(np.float32))
    for symmetric in (True, False):
        assert ends(histogram.best_step(symmetric, "entropy"))[1] < 60
        assert ends(histogram.best_step(symmetric, "max"))[1] > 79


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_the_range_grows_with_what_comes_and_nothing_is_lost(seed: int, samples: int) -> None:
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
    first = histogram.centers < 0
    # A value in the bin next to zero may lie on either side of it only if it is zero.
    assert histogram.counts[first].sum() == (every < 0).sum()


@pytest.mark.parametrize("clipping", CLIPPINGS)
def test_a_tensor_of_zeros_has_a_step(clipping: Clipping) -> None:
    histogram = Histogram()
    histogram.add(np.zeros((2, 3, 4, 4), np.float32))
    assert histogram.best_step(True, clipping).scale > 0
    assert histogram.best_step(False, clipping).scale > 0


@given(st.floats(-1e3, 0), st.floats(0, 1e3))
def test_zero_is_a_level_of_every_range(low: float, high: float) -> None:
    for symmetric in (True, False):
        step = range_step(low, high, symmetric)
        assert quantised(np.zeros(1), step) == 0
        bottom, top = ends(step)
        assert bottom <= low + step.scale
        assert top >= high - step.scale
