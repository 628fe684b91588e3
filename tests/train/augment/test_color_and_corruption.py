"""The groups color, filter, noise and cutout equal NumPy and SciPy in float64."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from scipy.spatial.transform import Rotation

from stylert.train.augment.color import Color, apply_color, random_color
from stylert.train.augment.corruption import (
    add_noise,
    cut_out,
    filter_bands,
    random_band_gains,
    random_cutouts,
    random_noise_std,
)
from stylert.train.augment.wavelets import band_filters


def drawn_color(rng, n):
    values = [rng.normal(size=n), rng.uniform(0.5, 2, n), rng.integers(0, 2, n), rng.uniform(-3, 3, n), rng.uniform(0, 3, n)]
    return Color(*(torch.from_numpy(np.asarray(v, float)) for v in values))


def by_hand(rgb, brightness, contrast, flip, hue, saturation):
    """The changes of one pixel, one after another."""
    axis = np.ones(3) / math.sqrt(3)
    rgb = (rgb + brightness) * contrast
    if flip:
        rgb = rgb - 2 * axis * (axis @ rgb)
    rgb = Rotation.from_rotvec(axis * hue).apply(rgb)
    grey = axis * (axis @ rgb)
    return grey + (rgb - grey) * saturation


def test_the_color_matrix_equals_the_changes_one_after_another(rng):
    n = 6
    color, images = drawn_color(rng, n), rng.normal(size=(n, 3, 4, 4))
    result = apply_color(torch.from_numpy(images), color.matrices()).numpy()
    for i in range(n):
        values = [float(v[i]) for v in (color.brightness, color.contrast, color.lumaflip, color.hue, color.saturation)]
        for y, x in np.ndindex(4, 4):
            np.testing.assert_allclose(result[i, :, y, x], by_hand(images[i, :, y, x], *values), atol=1e-10)


def test_grey_images_change_like_grey_colors(rng):
    color, images = drawn_color(rng, 5), torch.from_numpy(rng.normal(size=(5, 1, 4, 4)))
    colored = apply_color(images.expand(-1, 3, -1, -1), color.matrices())
    torch.testing.assert_close(apply_color(images, color.matrices()).expand(-1, 3, -1, -1), colored)


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_random_colors_have_the_probabilities_and_std_of_the_paper(seed, p):
    torch.manual_seed(seed)
    n = 40_000
    color, tolerance = random_color(n, p), 4.5 * 0.5 / math.sqrt(n)
    for values, neutral in ((color.brightness, 0), (color.contrast, 1), (color.hue, 0), (color.saturation, 1)):
        assert float((values != neutral).double().mean()) == pytest.approx(p, abs=tolerance)
    assert float((color.lumaflip == 1).double().mean()) == pytest.approx(p / 2, abs=tolerance)
    assert float(color.brightness[color.brightness != 0].std()) == pytest.approx(0.2, rel=0.05)
    assert float(color.contrast[color.contrast != 1].log2().std()) == pytest.approx(0.5, rel=0.05)
    assert float(color.saturation[color.saturation != 1].log2().std()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("size", [8, 24])
def test_bands_are_filtered_in_both_directions_with_mirrored_edges(rng, size):
    """Includes images that are narrower than the 43 taps."""
    images, gains = rng.normal(size=(4, 3, size, size)), rng.uniform(0.2, 3, (4, 4))
    result = filter_bands(torch.from_numpy(images), torch.from_numpy(gains)).numpy()
    for i in range(4):
        taps = gains[i] @ band_filters()
        expected = correlate1d(correlate1d(images[i], taps, 1, mode="mirror"), taps, 2, mode="mirror")
        np.testing.assert_allclose(result[i], expected, atol=1e-10)


def test_band_gains_keep_the_expected_power_and_have_probability_p(seed):
    torch.manual_seed(seed)
    power = np.array([10, 1, 1, 1]) / 13
    gains = random_band_gains(20_000, 0.25).numpy()
    untouched = (gains == 1).all(1)
    assert untouched.mean() == pytest.approx(0.75**4, abs=0.02)
    once = gains[~untouched][:, [0, 1, 2, 3]]
    single = [g for g in once if len({*g.round(12)}) == 2]  # exactly one band was amplified
    assert len(single) > 1000
    np.testing.assert_allclose([(power * g**2).sum() for g in single], 1, atol=1e-9)


def test_noise_has_its_standard_deviation(seed):
    torch.manual_seed(seed)
    images = torch.zeros(3, 3, 128, 128)
    noisy = add_noise(images, torch.tensor([0.0, 0.1, 0.3]))
    assert torch.equal(noisy[0], images[0])
    assert noisy[1:].std((1, 2, 3)).tolist() == pytest.approx([0.1, 0.3], rel=0.03)
    assert float(torch.corrcoef(noisy[2].flatten(1))[0, 1].abs()) < 0.05
    std = random_noise_std(40_000, 0.5)
    assert float((std > 0).double().mean()) == pytest.approx(0.5, abs=0.02)
    assert float(std[std > 0].mean()) == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.05)


def test_a_square_of_half_the_side_is_cut(rng, seed):
    torch.manual_seed(seed)
    cutouts, size = random_cutouts(200, 0.5), 16
    images = torch.from_numpy(rng.uniform(0.5, 1, (200, 3, size, size)))
    result = cut_out(images, cutouts)
    for image, original, (x, y, side) in zip(result.numpy(), images.numpy(), cutouts.numpy(), strict=True):
        expected = original.copy()
        if side:
            left, top = round((x - 0.25) * size), round((y - 0.25) * size)
            right, bottom = round((x + 0.25) * size), round((y + 0.25) * size)
            expected[:, max(top, 0) : bottom, max(left, 0) : right] = 0
        np.testing.assert_array_equal(image, expected)
    assert 60 < int((cutouts[:, 2] > 0).sum()) < 140
