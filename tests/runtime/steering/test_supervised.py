"""Directions of scores: the regularisation is that of leaving each image out, and a planted direction is found."""

from __future__ import annotations

import numpy as np
import pytest

from stylert.core.errors import InputError
from stylert.core.ridge import RIDGES
from stylert.runtime.steering.supervised import MIN_SCORES, score_direction, style_correlations


def left_out_errors(w: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """The error of each score, predicted by a fit of all others. The mean is that of all, as in the closed form."""
    x, target = w - w.mean(0), y - y.mean()
    errors = []
    for i in range(len(x)):
        rest = np.delete(np.arange(len(x)), i)
        design = np.column_stack([x[rest], np.ones(len(rest))])
        penalty = np.diag([*np.full(x.shape[1], ridge), 0.0])
        fit = np.linalg.solve(design.T @ design + penalty, design.T @ target[rest])
        errors.append(target[i] - np.append(x[i], 1) @ fit)
    return np.array(errors)


@pytest.mark.parametrize("images", [12, 60])
def test_the_ridge_has_the_least_error_of_images_that_are_left_out(images: int, rng: np.random.Generator) -> None:
    w = rng.standard_normal((images, 16)) * np.geomspace(0.2, 2, 16)
    y = w @ rng.standard_normal(16) + rng.standard_normal(images) + 7
    fit = score_direction(w, y)
    greatest = np.linalg.eigvalsh((w - w.mean(0)).T @ (w - w.mean(0)))[-1]
    errors = [left_out_errors(w, y, ridge * greatest) for ridge in RIDGES]
    best = int(np.argmin([np.square(e).mean() for e in errors]))
    x, target = w - w.mean(0), y - y.mean()
    expected = np.linalg.solve(x.T @ x + RIDGES[best] * greatest * np.eye(16), x.T @ target)
    np.testing.assert_allclose(fit.vector, expected / np.linalg.norm(expected), rtol=1e-6, atol=1e-9)
    others = np.array([np.delete(target, i).mean() for i in range(len(target))])
    assert fit.correlation == pytest.approx(np.corrcoef(target, target - errors[best] - others)[0, 1], abs=1e-9)


def test_a_direction_that_made_the_scores_is_found_and_chance_is_not_called_knowledge(rng: np.random.Generator) -> None:
    w = rng.standard_normal((400, 30)).astype(np.float32)
    truth = rng.standard_normal(30)
    truth /= np.linalg.norm(truth)
    fit = score_direction(w, (w @ truth > 0.3).astype(float))
    assert fit.vector @ truth > 0.95
    assert fit.correlation > 0.7
    for chance in (rng.standard_normal(400), np.arange(400.0) % 3 == 1):
        assert abs(score_direction(w, chance).correlation) < 0.25


def test_the_correlations_of_styles_are_those_of_their_values(rng: np.random.Generator) -> None:
    w, weight = rng.standard_normal((70, 9)).astype(np.float32) + 2, rng.standard_normal((25, 9)).astype(np.float32)
    weight[3] = 0  # a style that does not vary
    scores = rng.standard_normal(70)
    found = style_correlations(w, scores, weight)
    styles = w.astype(np.float64) @ weight.T.astype(np.float64)
    for i in range(25):
        expected = 0 if i == 3 else np.corrcoef(styles[:, i], scores)[0, 1]
        assert found[i] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "scores",
    [np.arange(MIN_SCORES - 1), np.ones(20), np.full(20, np.nan), np.append(np.ones(19), np.inf), np.arange(21)],
)
def test_scores_that_tell_nothing_are_refused(scores: np.ndarray, rng: np.random.Generator) -> None:
    w = rng.standard_normal((min(len(scores), 20), 5))
    for find in (lambda: score_direction(w, scores), lambda: style_correlations(w, scores, np.ones((3, 5)))):
        with pytest.raises(InputError, match="needs"):
            find()


def test_scores_of_latents_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(InputError, match="no direction"):
        score_direction(np.ones((20, 4)), np.arange(20.0))


@pytest.mark.parametrize("size", [1e300, 1e308, 1e-300])
@pytest.mark.filterwarnings("error")
def test_neither_a_direction_nor_a_correlation_depends_on_the_size_of_the_scores(size: float, rng: np.random.Generator) -> None:
    w, weight = rng.standard_normal((40, 8)), rng.standard_normal((6, 8))
    y = np.tanh(w[:, 0] + rng.standard_normal(40))
    fit, large = score_direction(w, y), score_direction(w, y * size)
    np.testing.assert_allclose(large.vector, fit.vector, rtol=1e-9)
    assert large.correlation == pytest.approx(fit.correlation, rel=1e-9)
    np.testing.assert_allclose(style_correlations(w, y * size, weight), style_correlations(w, y, weight), rtol=1e-9)


def test_powers_of_two_change_no_bit_of_a_direction(rng: np.random.Generator) -> None:
    w, y = rng.standard_normal((20, 4)), rng.standard_normal(20)
    np.testing.assert_array_equal(score_direction(w, y).vector, score_direction(w, y * 2.0**-40).vector)
