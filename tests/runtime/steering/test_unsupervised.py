"""SeFa and the principal components are those of independent decompositions in float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

from stylert.runtime.steering.unsupervised import covariance, principal_components, sefa, spreads


def up_to_sign(a: np.ndarray, b: np.ndarray) -> float:
    """The greatest difference of unit vectors, where the sign of each is free."""
    signs = np.sign((a * b).sum(1, keepdims=True))
    return float(np.abs(a - signs * b).max())


def test_sefa_is_the_eigen_decomposition_of_scipy(rng: np.random.Generator) -> None:
    weight = (rng.standard_normal((90, 24)) * np.geomspace(1, 5, 24)).astype(np.float32)
    vectors, shares = sefa(weight, 7)
    # The right singular vectors are the eigenvectors of weight.T @ weight, by another algorithm than that of the product.
    _, singular, right = scipy.linalg.svd(weight.astype(np.float64), lapack_driver="gesvd")
    assert up_to_sign(vectors, right[:7]) < 1e-10
    np.testing.assert_allclose(shares, (np.square(singular) / np.square(singular).sum())[:7], rtol=1e-10)
    values, columns = scipy.linalg.eigh(weight.astype(np.float64).T @ weight.astype(np.float64), driver="ev")
    assert up_to_sign(vectors, columns.T[::-1][:7]) < 1e-10
    assert (np.diff(shares) <= 0).all()
    assert values[-1] == pytest.approx(np.square(singular[0]))


def test_sefa_changes_the_styles_more_than_any_other_direction(rng: np.random.Generator) -> None:
    weight = rng.standard_normal((40, 12))
    vectors, _ = sefa(weight, 1)
    others = rng.standard_normal((500, 12))
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    assert np.linalg.norm(weight @ vectors[0]) >= np.linalg.norm(others @ weight.T, axis=1).max()


def test_principal_components_are_those_of_a_singular_value_decomposition(rng: np.random.Generator) -> None:
    w = (rng.standard_normal((300, 20)) @ rng.standard_normal((20, 20)) + 5).astype(np.float32)
    vectors, shares = principal_components(w, 6)
    centred = w.astype(np.float64) - w.astype(np.float64).mean(0)
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    assert up_to_sign(vectors, right[:6]) < 1e-8
    np.testing.assert_allclose(shares, (np.square(singular) / np.square(singular).sum())[:6], rtol=1e-8)


def test_the_sign_does_not_depend_on_the_library(rng: np.random.Generator) -> None:
    vectors, _ = principal_components(rng.standard_normal((50, 8)), 8)
    assert (np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1) > 0).all()


def test_a_spread_is_the_standard_deviation_along_a_direction(rng: np.random.Generator) -> None:
    w = rng.standard_normal((400, 10)) @ rng.standard_normal((10, 10)) + 3
    vectors = rng.standard_normal((4, 10))
    np.testing.assert_allclose(spreads(vectors, covariance(w)), (w @ vectors.T).std(0), rtol=1e-10)
