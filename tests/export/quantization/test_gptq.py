"""Rounding in turn: independent formulas give the same integers, and what a convolution returns is nearer for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from stylert.export.phases import merge_phases, phase_weights
from stylert.export.quantization.gptq import (
    BLOCK,
    DAMPING,
    Narrow,
    PatchMoments,
    Rounding,
    nearest,
    round_in_turn,
    to_fp8,
    to_int8,
)


def by_inverses(weights: np.ndarray, moments: np.ndarray, narrow: Narrow) -> np.ndarray:
    """The same by the formula of Optimal Brain Surgeon (Hassibi and Stork 1993), one inverse for every weight, float64."""
    order = np.argsort(-np.diag(moments), kind="stable")
    h = moments.astype(np.float64) + np.eye(len(moments)) * DAMPING * np.diag(moments).mean()
    rest, wanted, found = list(order), weights.astype(np.float64).copy(), np.zeros(weights.shape)
    while rest:
        inverse = np.linalg.inv(h[np.ix_(rest, rest)])
        i = rest[0]
        found[:, i] = narrow(wanted[:, i])
        wanted[:, rest] -= np.outer((wanted[:, i] - found[:, i]) / inverse[0, 0], inverse[0])
        rest = rest[1:]
    return found


@pytest.mark.parametrize(("narrow", "greatest"), [(to_int8, 127), (to_fp8, 448)])
def test_the_numbers_are_those_of_optimal_brain_surgeon(rng: np.random.Generator, narrow: Narrow, greatest: float) -> None:
    inputs = rng.standard_normal((40, 300)) @ rng.standard_normal((300, 300)) / 17 + 0.5
    moments = inputs.T @ inputs / len(inputs)
    weights = 1.2 * greatest * rng.uniform(-1, 1, (7, 300))  # more columns than a block, some beyond what 8 bits hold
    assert weights.shape[1] > 2 * BLOCK
    found = round_in_turn(weights, moments.astype(np.float32), narrow)
    assert found.dtype == narrow(weights).dtype
    assert np.abs(found.astype(np.float32)).max() == greatest
    # A tie that float32 sees on the other side goes on in all the weights that follow it.
    assert (found.astype(np.float64) == by_inverses(weights, moments, narrow)).all(1).mean() > 0.5


def test_inputs_that_have_nothing_in_common_take_the_nearest(rng: np.random.Generator) -> None:
    weights = rng.uniform(-130, 130, (5, 64))
    moments = np.diag(rng.uniform(0.1, 10, 64)).astype(np.float32)
    expected = np.clip(np.rint(weights), -127, 127)
    assert (round_in_turn(weights, moments, to_int8) == expected).all()
    assert (round_in_turn(weights, np.zeros((64, 64), np.float32), to_int8) == expected).all()  # a layer that nothing reaches


def smooth_images(rng: np.random.Generator, n: int, channels: int, size: int) -> np.ndarray:
    """Like what a layer reads: neighbours alike, a mean above zero."""
    x = gaussian_filter(rng.standard_normal((n, channels, size, size)), (0, 0, 1.5, 1.5))
    return np.maximum(x, 0.2 * x).astype(np.float32)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("size", [5, 24])
@pytest.mark.parametrize(("narrow", "greatest"), [(to_int8, 127), (to_fp8, 448)])
def test_what_a_convolution_returns_is_nearer(
    rng: np.random.Generator, up: int, size: int, narrow: Narrow, greatest: float
) -> None:
    """On images that the moments were not taken from."""
    moments = PatchMoments(12, 64)
    moments.add(smooth_images(rng, 64, 12, size))
    kernel = rng.standard_normal((16, 12, 3, 3)).astype(np.float32)
    scale = (np.abs(kernel).max((1, 2, 3)) / greatest).astype(np.float32)
    x = torch.tensor(smooth_images(rng, 16, 12, size), dtype=torch.float64)

    def error(rounded: np.ndarray) -> float:
        difference = torch.tensor(rounded.astype(np.float64) * scale[:, None, None, None] - kernel)
        y = (
            torch.nn.functional.conv_transpose2d(x, difference.transpose(0, 1), stride=2)
            if up == 2
            else torch.nn.functional.conv2d(x, difference, padding=1)
        )
        return float(y.square().mean())

    rounding = Rounding(moments)
    found = rounding(kernel, scale, narrow, upsampling=up == 2)
    assert error(found) < (0.9 if size == 5 else 0.7) * error(nearest(kernel, scale, narrow))  # a small image is mostly border
    assert rounding(kernel.copy(), scale.copy(), narrow, upsampling=up == 2) is found  # remembered
    if up == 2:
        phases = rounding(phase_weights(kernel), np.tile(scale, 4), narrow)
        assert (phases == phase_weights(found)).all()
        assert (phases[phase_weights(np.ones_like(kernel)) == 0] == 0).all()


def test_phases_merge_to_the_kernel_that_they_are_of(rng: np.random.Generator) -> None:
    kernel = rng.standard_normal((3, 5, 3, 3))
    assert (merge_phases(phase_weights(kernel)) == kernel).all()


def test_moments_are_those_of_all_patches(rng: np.random.Generator) -> None:
    """Where there are no more pixels than are looked at, each is: the mean over pixels, summed over samples."""
    x = rng.standard_normal((3, 2, 4, 5)).astype(np.float32)
    moments = PatchMoments(2, 3)
    moments.add(x[:1])
    moments.add(x[1:])
    patches = torch.nn.functional.unfold(torch.tensor(x, dtype=torch.float64), 3, padding=1)  # [3, 18, 20]
    expected = torch.einsum("nip,njp->ij", patches, patches).numpy() / 20
    np.testing.assert_allclose(moments.matrix, expected, rtol=1e-4, atol=1e-5)


def test_the_same_moments_round_alike_every_time(rng: np.random.Generator) -> None:
    x, kernel = smooth_images(rng, 8, 12, 16), rng.standard_normal((8, 12, 3, 3)).astype(np.float32)
    scale = (np.abs(kernel).max((1, 2, 3)) / 127).astype(np.float32)

    def rounded() -> np.ndarray:
        moments = PatchMoments(12, 8)
        moments.add(x)
        return Rounding(moments)(kernel, scale, to_int8)

    assert (rounded() == rounded()).all()
