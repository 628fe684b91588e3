"""The attacks give what Pillow gives, and let the gradient through."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from stylert.train.watermark import attacks
from stylert.train.watermark.attacks import as_pixels, random_view, resize, saved


@pytest.fixture
def picture(rng: np.random.Generator) -> Image.Image:
    return random_picture(rng)


def random_picture(rng: np.random.Generator) -> Image.Image:
    """A smooth picture with some noise, of odd size, whose values stay off the ends of the range."""
    small = Image.fromarray(rng.integers(50, 206, (6, 7, 3), np.uint8))
    smooth = np.asarray(small.resize((53, 46), Image.Resampling.BICUBIC), np.float32)
    return Image.fromarray((smooth + rng.normal(0, 4, smooth.shape)).clip(20, 235).astype(np.uint8))


def as_image(picture: Image.Image) -> Tensor:
    return attacks.as_image(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float())


def pixels(x: Tensor) -> np.ndarray:
    return as_pixels(x)[0].permute(1, 2, 0).numpy()


def in_file(picture: Image.Image, **options: object) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, **options)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize("quality", [30, 50, 75, 90])
def test_jpeg_gives_the_pixels_of_pillow(rng: np.random.Generator, quality: int) -> None:
    """libjpeg transforms in whole numbers. So a few coefficients are rounded to other steps, which the mean of ten pictures tells."""
    pictures = [random_picture(rng) for _ in range(10)]
    expected = np.stack([np.asarray(in_file(each, format="jpeg", quality=quality), np.float32) for each in pictures])
    ours = np.stack([pixels(attacks.jpeg(as_image(each), quality)) for each in pictures])
    lost = np.abs(np.stack(pictures) - expected).mean()
    assert np.abs(ours - expected).mean() < 0.2 * lost
    assert np.mean(np.abs(ours - expected) > 2) < 0.1


@pytest.mark.parametrize("size", [(40, 35), (27, 23), (70, 61)])
def test_resize_gives_the_pixels_of_pillow(picture: Image.Image, size: tuple[int, int]) -> None:
    expected = np.asarray(picture.resize(size, Image.Resampling.BILINEAR), np.float32)
    assert np.abs(pixels(attacks.resize(as_image(picture), size[1], size[0])) - expected).max() <= 1


def test_crop_keeps_the_pixels_of_a_part(picture: Image.Image) -> None:
    part = attacks.crop(as_image(picture), 0.5, 1.0, 0.0)
    assert np.array_equal(pixels(part), np.asarray(picture)[23:, :26])


@pytest.mark.parametrize("factor", [0.8, 1.1])
def test_light_gives_the_pixels_of_pillow(picture: Image.Image, factor: float) -> None:
    for ours, theirs in ((attacks.brightness, ImageEnhance.Brightness), (attacks.contrast, ImageEnhance.Contrast)):
        expected = np.asarray(theirs(picture).enhance(factor), np.float32)
        assert np.abs(pixels(ours(as_image(picture), factor)) - expected).max() <= 1


def test_blur_is_that_of_scipy_and_close_to_pillows(picture: Image.Image) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    ours = pixels(attacks.blur(as_image(picture), 1.0))
    exact = ndimage.gaussian_filter(np.asarray(picture, np.float64), (1, 1, 0), mode="nearest", radius=(3, 3, 0))
    assert np.abs(ours - exact).max() <= 0.51
    pillow = np.asarray(picture.filter(ImageFilter.GaussianBlur(1.0)), np.float32)
    assert np.abs(ours - pillow).mean() < 0.6


def test_noise_has_the_given_deviation() -> None:
    x = torch.zeros(4, 3, 64, 64)
    assert float((attacks.noise(x, 8.0) * 127.5).std()) == pytest.approx(8, rel=0.03)


@pytest.mark.parametrize(
    "attack",
    [
        lambda x: attacks.jpeg(x, 75),
        lambda x: attacks.resize(x, 20, 24),
        lambda x: attacks.crop(x, 0.7),
        lambda x: attacks.blur(x, 0.8),
        lambda x: attacks.noise(x, 4),
        lambda x: attacks.brightness(x, 1.2),
        lambda x: attacks.contrast(x, 0.8),
    ],
)
def test_the_gradient_passes_through_an_attack_also_where_it_clips(attack: Callable[[Tensor], Tensor]) -> None:
    x = (torch.rand(2, 3, 33, 47) * 2.6 - 1.3).requires_grad_()
    seen = resize(saved(attack(x)), 21, 29)
    (gradient,) = torch.autograd.grad(seen.square().sum(), x)
    assert torch.isfinite(gradient).all()
    assert float(gradient.abs().max()) > 0.1
    beyond = gradient[x.detach().abs() > 1.1]
    assert float((beyond != 0).float().mean()) > 0.4


def test_the_gradient_of_jpeg_is_that_of_an_edit_that_keeps_the_picture() -> None:
    x = (torch.rand(1, 3, 32, 32) - 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad((attacks.jpeg(x, 90)[:, :, 8:24, 8:24]).sum(), x)
    assert float(gradient[:, :, 10:22, 10:22].mean()) == pytest.approx(1, abs=0.05)
    assert float(gradient[:, :, :4].abs().max()) < 0.05


def test_random_views_repeat_with_their_draws_and_are_of_all_kinds() -> None:
    x, results = torch.rand(1, 3, 32, 32) * 2 - 1, []
    for seed in range(60):
        pair = []
        for _ in range(2):
            torch.manual_seed(0)
            pair.append(random_view(x, 24, random.Random(seed)))
        assert torch.equal(pair[0][0], pair[1][0])
        assert pair[0][1:] == pair[1][1:]
        results.append(pair[0])
    assert len({tuple(seen.shape) for seen, _, _ in results}) > 5
    assert any(torch.equal(seen, resize(saved(x), 24, 24)) for seen, _, _ in results)


def test_the_place_of_a_random_crop_is_told() -> None:
    ramp = torch.linspace(-1, 1, 32)
    x = torch.stack([ramp[:, None].expand(32, 32), ramp[None].expand(32, 32), torch.zeros(32, 32)])[None]
    crops = 0
    for seed in range(80):
        seen, top, left = random_view(x, 32, random.Random(seed))
        if seen.shape[2] < 32:
            crops += 1
            assert float(seen[0, 0, 0].mean()) == pytest.approx(float(ramp[top]), abs=0.05)
            assert float(seen[0, 1, :, 0].mean()) == pytest.approx(float(ramp[left]), abs=0.05)
    assert crops > 10
