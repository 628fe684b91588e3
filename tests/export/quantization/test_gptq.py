"""GPTQ equals an independent formula, and leaves a convolution with less error than nearest rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from stylert.export.phase_weights import merge_phases, phase_weights
from stylert.export.quantization.gptq import BLOCK, DAMPING, GptqRounder, PatchMoments, gptq
from stylert.export.quantization.number_formats import RoundToFormat, round_to_nearest, to_fp8, to_int8


def optimal_brain_surgeon(weights: np.ndarray, moments: np.ndarray, to_format: RoundToFormat) -> np.ndarray:
    """The same rounding by the formula of Hassibi and Stork 1993, with one float64 inverse for every weight."""
    order = np.argsort(-np.diag(moments), kind="stable")
    h = moments.astype(np.float64) + np.eye(len(moments)) * DAMPING * np.diag(moments).mean()
    remaining, target, rounded = list(order), weights.astype(np.float64).copy(), np.zeros(weights.shape)
    while remaining:
        inverse = np.linalg.inv(h[np.ix_(remaining, remaining)])
        i = remaining[0]
        rounded[:, i] = to_format(target[:, i])
        target[:, remaining] -= np.outer((target[:, i] - rounded[:, i]) / inverse[0, 0], inverse[0])
        remaining = remaining[1:]
    return rounded


@pytest.mark.parametrize(("to_format", "greatest"), [(to_int8, 127), (to_fp8, 448)])
def test_the_numbers_are_those_of_optimal_brain_surgeon(
    rng: np.random.Generator, to_format: RoundToFormat, greatest: float
) -> None:
    inputs = rng.standard_normal((40, 300)) @ rng.standard_normal((300, 300)) / 17 + 0.5
    moments = inputs.T @ inputs / len(inputs)
    weights = 1.2 * greatest * rng.uniform(-1, 1, (7, 300))  # more columns than a block, and some values out of range
    assert weights.shape[1] > 2 * BLOCK
    rounded = gptq(weights, moments.astype(np.float32), to_format)
    assert rounded.dtype == to_format(weights).dtype
    assert np.abs(rounded.astype(np.float32)).max() == greatest
    # Float32 may decide a tie in the other way. All later weights of that output channel then differ, too.
    assert (rounded.astype(np.float64) == optimal_brain_surgeon(weights, moments, to_format)).all(1).mean() > 0.5


def test_uncorrelated_inputs_take_the_nearest_numbers(rng: np.random.Generator) -> None:
    weights = rng.uniform(-130, 130, (5, 64))
    moments = np.diag(rng.uniform(0.1, 10, 64)).astype(np.float32)
    expected = np.clip(np.rint(weights), -127, 127)
    assert (gptq(weights, moments, to_int8) == expected).all()
    never_active = np.zeros((64, 64), np.float32)
    assert (gptq(weights, never_active, to_int8) == expected).all()


def smooth_images(rng: np.random.Generator, n: int, channels: int, size: int) -> np.ndarray:
    """Images like the input of a layer: neighbours are alike, and the mean is above zero."""
    x = gaussian_filter(rng.standard_normal((n, channels, size, size)), (0, 0, 1.5, 1.5))
    return np.maximum(x, 0.2 * x).astype(np.float32)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("size", [5, 24])
@pytest.mark.parametrize(("to_format", "greatest"), [(to_int8, 127), (to_fp8, 448)])
def test_the_result_of_a_convolution_is_nearer_on_unseen_images(
    rng: np.random.Generator, up: int, size: int, to_format: RoundToFormat, greatest: float
) -> None:
    moments = PatchMoments(12, 64)
    moments.add(smooth_images(rng, 64, 12, size))
    kernel = rng.standard_normal((16, 12, 3, 3)).astype(np.float32)
    scale = (np.abs(kernel).max((1, 2, 3)) / greatest).astype(np.float32)
    x = torch.tensor(smooth_images(rng, 16, 12, size), dtype=torch.float64)

    def error(rounded: np.ndarray) -> float:
        difference = torch.tensor(rounded.astype(np.float64) * scale[:, None, None, None] - kernel)
        if up == 2:
            y = torch.nn.functional.conv_transpose2d(x, difference.transpose(0, 1), stride=2)
        else:
            y = torch.nn.functional.conv2d(x, difference, padding=1)
        return float(y.square().mean())

    rounder = GptqRounder(moments)
    rounded = rounder(kernel, scale, to_format, upsampling=up == 2)
    bound = 0.9 if size == 5 else 0.7  # a small image is mostly border
    assert error(rounded) < bound * error(round_to_nearest(kernel, scale, to_format))
    assert rounder(kernel.copy(), scale.copy(), to_format, upsampling=up == 2) is rounded, (
        "an equal kernel is not computed again"
    )
    if up == 2:
        phases = rounder(phase_weights(kernel), np.tile(scale, 4), to_format)
        assert (phases == phase_weights(rounded)).all()
        assert (phases[phase_weights(np.ones_like(kernel)) == 0] == 0).all()


def test_phases_merge_to_their_kernel(rng: np.random.Generator) -> None:
    kernel = rng.standard_normal((3, 5, 3, 3))
    assert (merge_phases(phase_weights(kernel)) == kernel).all()


def test_moments_of_small_images_are_those_of_all_patches(rng: np.random.Generator) -> None:
    """Images with few pixels are not sampled. The moments are means over pixels, summed over images."""
    x = rng.standard_normal((3, 2, 4, 5)).astype(np.float32)
    moments = PatchMoments(2, 3)
    moments.add(x[:1])
    moments.add(x[1:])
    patches = torch.nn.functional.unfold(torch.tensor(x, dtype=torch.float64), 3, padding=1)  # [3, 18, 20]
    expected = torch.einsum("nip,njp->ij", patches, patches).numpy() / 20
    np.testing.assert_allclose(moments.matrix, expected, rtol=1e-4, atol=1e-5)


def test_the_same_images_give_the_same_rounding(rng: np.random.Generator) -> None:
    x, kernel = smooth_images(rng, 8, 12, 16), rng.standard_normal((8, 12, 3, 3)).astype(np.float32)
    scale = (np.abs(kernel).max((1, 2, 3)) / 127).astype(np.float32)

    def rounded() -> np.ndarray:
        moments = PatchMoments(12, 8)
        moments.add(x)
        return GptqRounder(moments)(kernel, scale, to_int8)

    assert (rounded() == rounded()).all()
