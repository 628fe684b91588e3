"""The groups blit and geom equal matrices composed by hand, direct sums in float64, and SciPy."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from stylert.train.augment.geometry import Geometry, random_geometry
from stylert.train.augment.resampling import blit, warp
from stylert.train.augment.wavelets import SYM6


def neutral(n=1, **changes):
    ones, zeros, two = torch.ones(n).double(), torch.zeros(n).double(), torch.zeros(n, 2).double()
    fields = {
        "xflip": zeros,
        "rotate90": zeros,
        "xint": two,
        "scale": ones,
        "pre_rotation": zeros,
        "aniso": ones,
        "post_rotation": zeros,
        "xfrac": two,
    }
    return Geometry(**fields | {k: torch.as_tensor(v).double() for k, v in changes.items()})


def turn(angle):
    return np.array([[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]])


def move(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def test_the_matrix_is_the_product_in_the_order_of_the_paper(rng):
    xflip, rotate90 = int(rng.integers(0, 2)), int(rng.integers(0, 4))
    xint, xfrac = rng.integers(-5, 6, 2), rng.normal(size=2)
    scale, aniso = rng.uniform(0.5, 2, 2)
    before, after = rng.uniform(-3, 3, 2)
    drawn = neutral(
        xflip=[xflip],
        rotate90=[rotate90],
        xint=xint[None],
        scale=[scale],
        pre_rotation=[before],
        aniso=[aniso],
        post_rotation=[after],
        xfrac=xfrac[None],
    )
    steps = [np.diag([1 - 2 * xflip, 1, 1]), turn(rotate90 * math.pi / 2), move(*xint), np.diag([scale, scale, 1])]
    steps += [turn(before), np.diag([aniso, 1 / aniso, 1]), turn(after), move(*xfrac)]
    expected = np.eye(3)
    for step in steps:
        expected = step @ expected
    np.testing.assert_allclose(drawn.matrices()[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [8, 9])
def test_whole_pixels_move_exactly(rng, size):
    n = 12
    xflip, rotate90, xint = rng.integers(0, 2, n), rng.integers(0, 4, n), rng.integers(-size + 1, size, (n, 2))
    images = torch.from_numpy(rng.normal(size=(n, 3, size, size))).float()
    moved = blit(images, neutral(n, xflip=xflip, rotate90=rotate90, xint=xint).matrices())
    for i in range(n):
        x = images[i].numpy()
        x = x[:, :, ::-1] if xflip[i] else x
        x = np.rot90(x, rotate90[i], (1, 2))
        dx, dy = xint[i]
        x = np.pad(x, [(0, 0), (size - 1, size - 1), (size - 1, size - 1)], mode="reflect")
        x = x[:, size - 1 - dy :, size - 1 - dx :][:, :size, :size]
        np.testing.assert_array_equal(moved[i].numpy(), x)


def by_direct_sums(image, matrix):
    """Upsampling, bilinear lookup and downsampling of one float64 plane `[S, S]`, each as an explicit sum."""
    size, pad = len(image), len(image) - 1
    x = np.pad(image, pad, mode="reflect")
    length = len(x)
    up = np.zeros((2 * length, length))  # tap m - 2 k + 5 of the reversed filter leads from pixel k to fine pixel m
    for m in range(2 * length):
        for k in range(length):
            if 0 <= m - 2 * k + 5 < 12:
                up[m, k] = SYM6[::-1][m - 2 * k + 5] * math.sqrt(2)
    fine = up @ x @ up.T
    radius = 6
    count = 2 * size + 4 * radius
    looked = np.zeros((count, count))
    inverse = np.linalg.inv(matrix)
    delay = 5.5 - (np.arange(12) * SYM6).sum() / SYM6.sum()
    for i in range(count):
        for j in range(count):
            centred = [(j + 0.5 - delay) / 2 - radius - size / 2, (i + 0.5 - delay) / 2 - radius - size / 2, 1]
            u, v = (inverse @ centred)[:2] * 2 + length - 0.5 + delay
            u0, v0 = math.floor(u), math.floor(v)
            for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
                if 0 <= v0 + a < 2 * length and 0 <= u0 + b < 2 * length:
                    looked[i, j] += fine[v0 + a, u0 + b] * abs(1 - a - v + v0) * abs(1 - b - u + u0)
    down = np.zeros((size, count))  # tap 2 k + 6 - m leads from fine pixel m to pixel k
    for k in range(size):
        for m in range(count):
            if 0 <= 2 * (k + radius) + 6 - m < 12:
                down[k, m] = SYM6[2 * (k + radius) + 6 - m] * math.sqrt(0.5)
    return down @ looked @ down.T


def test_warp_equals_the_sum_over_wavelet_taps(rng):
    size = 8
    image = rng.normal(size=(1, 1, size, size))
    drawn = neutral(
        scale=[rng.uniform(0.9, 1.2)], pre_rotation=[rng.uniform(-1, 1)], aniso=[1.1], xfrac=rng.normal(size=(1, 2)) * 0.5
    )
    result = warp(torch.from_numpy(image), drawn.matrices())[0, 0].numpy()
    np.testing.assert_allclose(result, by_direct_sums(image[0, 0], drawn.matrices()[0].numpy()), atol=1e-9)


def test_warp_of_smooth_images_agrees_with_cubic_splines(rng):
    """Compared far from the edges, where SciPy extends the image differently."""
    size, n = 32, 6
    drawn = random_geometry(n, size, 1.0, True, True)
    at = np.arange(size) - (size - 1) / 2
    y, x = np.meshgrid(at, at, indexing="ij")
    phases = rng.uniform(0, 6, (n, 2))
    images = np.stack([np.sin(0.25 * x + a) * np.cos(0.2 * y + b) for a, b in phases])[:, None]
    matrices = drawn.matrices()
    result = warp(torch.from_numpy(images), matrices).numpy()
    for i, back in enumerate(np.linalg.inv(matrices.numpy())):
        swapped = back[[1, 0, 2]][:, [1, 0, 2]]  # SciPy's order is (row, column)
        centre = np.full(2, (size - 1) / 2)
        offset = swapped[:2, 2] + centre - swapped[:2, :2] @ centre
        expected = affine_transform(images[i, 0], swapped[:2, :2], offset, order=3, mode="mirror")
        source = back @ np.stack([x.ravel(), y.ravel(), np.ones(size * size)])
        inside = (np.abs(source[:2]).max(0) < size / 2 - 6).reshape(size, size)
        assert np.abs(result[i, 0] - expected)[inside].max(initial=0) < 0.01


def test_warp_by_whole_pixels_equals_blit(rng):
    images = torch.from_numpy(rng.normal(size=(3, 3, 16, 16)))
    drawn = neutral(3, xint=rng.integers(-6, 7, (3, 2)))
    torch.testing.assert_close(warp(images, drawn.matrices()), blit(images, drawn.matrices()), atol=1e-9, rtol=0)


def test_an_image_with_the_identity_matrix_stays_bit_for_bit(rng):
    images = torch.from_numpy(rng.normal(size=(3, 3, 16, 16))).float()
    result = warp(images, neutral(3, pre_rotation=[0, 0.5, 0], scale=[1, 1, 1.3]).matrices())
    assert torch.equal(result[0], images[0])
    assert not torch.isclose(result[1:], images[1:]).all()


def test_a_much_smaller_image_is_surrounded_by_black_beyond_its_reflections(rng):
    images = torch.ones(1, 3, 32, 32, dtype=torch.float64)
    result = warp(images, neutral(scale=[0.2]).matrices())  # 94 pixels become 19
    assert result[0, :, :3].abs().max() < 1e-6
    torch.testing.assert_close(result[0, :, 15:17, 15:17], torch.ones(3, 2, 2).double(), atol=0.01, rtol=0)


@pytest.mark.parametrize("p", [0.2, 1.0])
def test_random_transformations_have_the_probabilities_and_deviations_of_the_paper(seed, p):
    torch.manual_seed(seed)
    n, size = 40_000, 64
    g = random_geometry(n, size, p, True, True)
    tolerance = 4.5 * 0.5 / math.sqrt(n)

    def share(chosen):
        return float(chosen.double().mean())

    assert share(g.xflip == 1) == pytest.approx(p / 2, abs=tolerance)
    for k in (1, 2, 3):
        assert share(g.rotate90 == k) == pytest.approx(p / 4, abs=tolerance)
    assert share(g.xint[:, 0] != 0) == pytest.approx(p * 16 / 16.0 * (1 - 1 / 16), abs=2 * tolerance)
    assert g.xint.abs().max() == (8 if p == 1 else g.xint.abs().max())
    assert share(g.scale != 1) == pytest.approx(p, abs=tolerance)
    assert share((g.pre_rotation != 0) | (g.post_rotation != 0)) == pytest.approx(p, abs=tolerance)
    assert share(g.aniso != 1) == pytest.approx(p, abs=tolerance)
    assert share((g.xfrac != 0).all(1)) == pytest.approx(p, abs=tolerance)
    assert float(g.scale[g.scale != 1].log2().std()) == pytest.approx(0.2, rel=0.05)
    assert float(g.xfrac[g.xfrac[:, 0] != 0].std()) == pytest.approx(0.125 * size, rel=0.05)


@pytest.mark.parametrize(("height", "width"), [(16, 40), (36, 12), (12, 20)])
def test_images_that_are_not_square_move_about_their_centre(rng, height, width):
    """Half turns, mirrors and whole shifts are array operations. `warp` makes the same shifts."""
    images = rng.normal(size=(3, 2, height, width))
    drawn = neutral(3, rotate90=[2, 0, 0], xflip=[0, 1, 0], xint=[[0, 0], [0, 0], [5, -3]])
    moved = blit(torch.from_numpy(images), drawn.matrices()).numpy()
    np.testing.assert_array_equal(moved[0], images[0, :, ::-1, ::-1])
    np.testing.assert_array_equal(moved[1], images[1, :, :, ::-1])
    np.testing.assert_array_equal(moved[2, :, :-3, 5:], images[2, :, 3:, :-5])
    np.testing.assert_allclose(warp(torch.from_numpy(images), drawn.matrices()).numpy()[2], moved[2], atol=1e-9)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (48, 24)])
def test_warp_of_smooth_images_that_are_not_square_agrees_with_cubic_splines(rng, height, width):
    drawn = random_geometry(4, (width, height), 1.0, True, True)
    assert set(drawn.rotate90.tolist()) <= {0.0, 2.0}
    y, x = np.meshgrid(*(np.arange(side) - (side - 1) / 2 for side in (height, width)), indexing="ij")
    images = np.stack([np.sin(0.25 * x + a) * np.cos(0.2 * y + b) for a, b in rng.uniform(0, 6, (4, 2))])[:, None]
    result = warp(torch.from_numpy(images), drawn.matrices()).numpy()
    for i, back in enumerate(np.linalg.inv(drawn.matrices().numpy())):
        swapped = back[[1, 0, 2]][:, [1, 0, 2]]
        centre = np.array([height - 1, width - 1]) / 2
        expected = affine_transform(
            images[i, 0], swapped[:2, :2], swapped[:2, 2] + centre - swapped[:2, :2] @ centre, order=3, mode="mirror"
        )
        source = (back @ np.stack([x.ravel(), y.ravel(), np.ones(x.size)]))[:2]
        inside = (np.abs(source) < np.array([[width], [height]]) / 2 - 6).all(0).reshape(height, width)
        assert np.abs(result[i, 0] - expected)[inside].max(initial=0) < 0.01
