"""Edits of an image that a mark has to survive, as differentiable functions, and random choices of them.

Images are `[N, 3, H, W]` in [-1, 1]. Each function gives the pixels that Pillow gives, to a rounding.
"""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.train.watermark import jpeg as jpeg_file
from stylert.train.watermark.jpeg import bounded

#: Half the range of a pixel.
HALF = 127.5
#: Shares of a side that crops keep in training, and that a resize goes down to.
CROP_SHARES, RESIZE_SHARES = (0.6, 0.95), (0.5, 0.9)
#: The edits in training, and how often each is chosen.
KINDS = ("none", "jpeg", "resize", "crop", "blur", "noise", "light", "crop and jpeg")
WEIGHTS = (2, 4, 2, 3, 1, 1, 1, 1)


def as_pixels(x: Tensor) -> Tensor:
    """The whole numbers from 0 to 255 that an image is saved as. The gradient passes through, also for clipped values."""
    return bounded(x * HALF + HALF, 0, 255)


def as_image(pixels: Tensor) -> Tensor:
    """The inverse of `as_pixels`."""
    return pixels / HALF - 1


def saved(x: Tensor) -> Tensor:
    """The image with 8 bits per value."""
    return as_image(as_pixels(x))


def jpeg(x: Tensor, quality: int) -> Tensor:
    """The image after a JPEG file of this quality, 1 to 100."""
    return as_image(jpeg_file.jpeg(as_pixels(x), quality))


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize, with a wider filter where the image shrinks."""
    if x.shape[2:] == (height, width):
        return x
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)


def crop(x: Tensor, share: float, top: float = 0.5, left: float = 0.5) -> Tensor:
    """A part with `share` of each side. `top` and `left` are its place, from 0 to 1."""
    height, width = (max(round(side * share), 1) for side in x.shape[2:])
    y, z = round(top * (x.shape[2] - height)), round(left * (x.shape[3] - width))
    return x[:, :, y : y + height, z : z + width]


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of standard deviation `sigma` pixels. Pixels beyond the border are those of the border."""
    radius = max(math.ceil(3 * sigma), 1)
    taps = torch.exp(-torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device).square() / (2 * sigma**2))
    taps = (taps / taps.sum()).expand(x.shape[1], 1, 1, -1)
    padded = F.pad(x, (radius,) * 4, mode="replicate")
    rows = F.conv2d(padded, taps, groups=x.shape[1])
    return F.conv2d(rows, taps.transpose(2, 3), groups=x.shape[1])


def noise(x: Tensor, deviation: float) -> Tensor:
    """Normal noise of `deviation` of the 255 levels, drawn from PyTorch's random state."""
    return x + torch.randn_like(x) * (deviation / HALF)


def brightness(x: Tensor, factor: float) -> Tensor:
    """Every value times `factor`, black being zero."""
    return (x + 1) * factor - 1


def contrast(x: Tensor, factor: float) -> Tensor:
    """The differences from the mean brightness of the image times `factor`."""
    luma = torch.tensor([0.299, 0.587, 0.114], device=x.device).reshape(1, 3, 1, 1)
    mean = (x * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    return mean + (x - mean) * factor


def random_view(x: Tensor, side: int, draws: random.Random) -> tuple[Tensor, int, int]:
    """Images after a random edit, as the decoder reads them, with 8 bits per value.

    The edit is none, JPEG, resize, crop, crop and JPEG, blur, noise, brightness or contrast, each with a random strength.

    Args:
        x: Whole images `[N, 3, R, R]`.
        side: Height and width at which the decoder reads a whole image.
        draws: Decides the edit.

    Returns:
        The images, and the place of their first pixel: top and left in pixels of the decoder.
    """
    kind = draws.choices(KINDS, WEIGHTS)[0]
    scale, share, top, left = side / x.shape[2], draws.uniform(*CROP_SHARES), draws.random(), draws.random()
    if kind in ("crop", "crop and jpeg"):
        part = crop(x, share, top, left)
        length = max(round(part.shape[2] * scale), 1)
        seen = resize(jpeg(part, draws.randint(65, 95)) if kind == "crop and jpeg" else part, length, length)
        return saved(seen), round(top * (side - length)), round(left * (side - length))
    if kind == "jpeg":
        x = jpeg(x, draws.randint(45, 95))
    elif kind == "resize":
        length = round(x.shape[2] * draws.uniform(*RESIZE_SHARES))
        x = saved(resize(x, length, length))
    elif kind == "blur":
        x = blur(x, draws.uniform(0.3, 1.0))
    elif kind == "noise":
        x = noise(x, draws.uniform(1, 8))
    elif kind == "light":
        x = draws.choice((brightness, contrast))(x, draws.uniform(0.75, 1.25))
    return resize(saved(x), side, side), 0, 0
