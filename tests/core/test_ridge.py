"""Ridge regression against fits that leave each observation out, and the honesty of its correlation."""

from __future__ import annotations

import numpy as np
import pytest

from stylert.core import ridge as module
from stylert.core.ridge import correlation, ridge_regression


@pytest.mark.parametrize(("count", "width"), [(60, 7), (30, 80)])
def test_the_correlation_is_that_of_fits_without_each_observation(
    count: int, width: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RIDGES", np.array([0.01]))
    x, y = rng.normal(size=(count, width)), rng.normal(size=count) + 5
    strength = 0.01 * np.linalg.svd(x - x.mean(0), compute_uv=False)[0] ** 2

    def fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
        centred = x - x.mean(0)
        weights = np.linalg.solve(centred.T @ centred + strength * np.eye(width), centred.T @ (y - y.mean()))
        return weights, y.mean() - x.mean(0) @ weights

    found, (weights, constant) = ridge_regression(x, y), fit(x, y)
    np.testing.assert_allclose(found.weights, weights, atol=1e-9)
    assert found.constant == pytest.approx(constant, abs=1e-9)
    differences = []
    for i in range(count):
        rest = np.arange(count) != i
        weights, constant = fit(x[rest], y[rest])
        differences.append(x[i] @ weights + constant - y[rest].mean())
    # The leverage is that of centred inputs with the strength of all observations, so the identity is exact.
    assert found.correlation == pytest.approx(np.corrcoef(y, differences)[0, 1], abs=1e-6)


def test_values_of_chance_have_a_correlation_near_zero(rng: np.random.Generator) -> None:
    x = rng.normal(size=(400, 20))
    for y in (rng.normal(size=400), np.arange(400.0) % 3, np.arange(400.0)):
        assert abs(ridge_regression(x, y).correlation) < 0.25
    assert ridge_regression(x, x[:, 0] + 3).correlation > 0.99


def test_inputs_that_do_not_vary_tell_nothing() -> None:
    fit = ridge_regression(np.ones((10, 3)), np.arange(10.0))
    assert (fit.weights.tolist(), fit.constant, fit.correlation) == ([0, 0, 0], 4.5, 0)
    assert correlation(np.ones(5), np.arange(5)) == 0
