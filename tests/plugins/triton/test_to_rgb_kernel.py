"""The kernel of torgb alone equals the float64 reference, in the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
from stylert.plugins.reference.upfirdn2d import upsample2d
from stylert.plugins.triton.to_rgb import Rgb, to_rgb_into


def draw(rng: np.random.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def random_rgb(rng: np.random.Generator, dtype: torch.dtype, channels: int) -> tuple[torch.Tensor, Rgb]:
    """Activations of up to two steps of channels and two blocks of pixels, and their torgb into an image of NaN."""
    n, i, h, w = (int(v) for v in rng.integers([1, 1, 1, 1], [4, 100, 5, 6]))
    x, image = draw(rng, n, 2 * h, 2 * w, i, dtype=dtype), torch.full((n, 2 * h, 2 * w, channels), float("nan"))
    bias = draw(rng, channels) if rng.integers(3) else None
    rgb = Rgb(image, draw(rng, channels, i) / i**0.5, draw(rng, n, i), bias, clamp=float(rng.choice([0, 1])))
    if rng.integers(3):
        rgb = replace(rgb, skip=draw(rng, n, h, w, channels), f=draw(rng, 4, 4) / 4)
    return x, rgb


def reference(x: torch.Tensor, rgb: Rgb) -> torch.Tensor:
    """The image in float64, `[N, H, W, C]`."""
    bias = None if rgb.bias is None else rgb.bias.double()
    weight = rgb.weight.double()[:, :, None, None]
    image = modulated_conv2d(x.double().permute(0, 3, 1, 2), weight, rgb.style.double(), bias=bias, clamp=rgb.clamp or None)
    if rgb.skip is not None:
        image = image + upsample2d(rgb.skip.double().permute(0, 3, 1, 2), rgb.f.double())
    return image.permute(0, 2, 3, 1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_image_is_that_of_the_reference(
    rng: np.random.Generator, dtype: torch.dtype, channels: int, assert_parity: Callable[..., None]
) -> None:
    for _ in range(3):
        x, rgb = random_rgb(rng, dtype, channels)
        to_rgb_into(x, rgb)
        # The activations are exact, and all products are float32.
        assert_parity(rgb.image, reference(x, rgb), torch.float32, (x.shape, rgb.clamp))


def test_an_image_in_bytes_is_rounded_as_the_official_tools_do(rng: np.random.Generator) -> None:
    x, rgb = random_rgb(rng, torch.float32, 3)
    image = torch.zeros_like(rgb.image, dtype=torch.uint8)
    to_rgb_into(x, replace(rgb, image=image))
    exact = (reference(x, rgb) * 127.5 + 128).clamp(0, 255)
    # The kernel truncates a float32. A value next to a whole number may fall to either side of it.
    assert (image.double() <= exact + 1e-2).all()
    assert (image.double() >= exact - 1 - 1e-2).all()


def test_operands_that_the_kernel_cannot_serve_are_refused(rng: np.random.Generator) -> None:
    x, rgb = random_rgb(rng, torch.float32, 3)
    for wrong_x in (x.double(), x[0], torch.cat([x, x], 3)[..., ::2], torch.cat([x, x])):
        with pytest.raises(ValueError, match=r"^torgb: "):
            to_rgb_into(wrong_x, rgb)
    with pytest.raises(ValueError, match="torgb: style"):
        to_rgb_into(x, replace(rgb, style=rgb.style[:, :-1]))
