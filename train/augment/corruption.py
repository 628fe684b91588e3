"""The groups `filter`, `noise` and `cutout` (Karras et al. 2020b, appendix B)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.train.augment.random_parameters import log_normal, normal, uniform, with_probability
from stylert.train.augment.wavelets import band_filters

#: Share of a natural image's power in each of the four bands, by the 1/f law.
BAND_POWER = torch.tensor([10.0, 1, 1, 1], dtype=torch.float64) / 13
# The names of these constants are those of the official code.
IMGFILTER_STD = 1.0
NOISE_STD = 0.1
CUTOUT_SIZE = 0.5  # share of the side


def random_band_gains(n: int, p: float) -> Tensor:
    """Random gains of the four bands for `n` images, float64 `[N, 4]`.

    Each band is amplified with probability `p`. All bands are then scaled to keep the expected power of the image.
    """
    gains = torch.ones(n, 4, dtype=torch.float64)
    for band in range(4):
        amplification = with_probability(p, log_normal(IMGFILTER_STD, n), 1)
        power = 1 + BAND_POWER[band] * (amplification.square() - 1)
        gains[:, band] *= amplification
        gains /= power.sqrt()[:, None]
    return gains


def filter_bands(images: Tensor, gains: Tensor) -> Tensor:
    """Amplify the four bands of images in both directions, with reflected edges.

    Args:
        images: `[N, C, H, W]`.
        gains: `[N, 4]`. Images whose gains are all 1 stay bit for bit.
    """
    n, c, h, w = images.shape
    taps = (gains @ torch.from_numpy(band_filters())).to(images)
    taps = taps.repeat_interleave(c, 0)
    # The images become channels of one image, so that one grouped convolution filters each with its own taps.
    x = _reflect_pad(images.reshape(1, n * c, h, w), taps.shape[1] // 2)
    x = F.conv2d(x, taps[:, None, None, :], groups=n * c)
    x = F.conv2d(x, taps[:, None, :, None], groups=n * c).reshape(n, c, h, w)
    untouched = (gains == 1).all(1).to(images.device)
    return torch.where(untouched[:, None, None, None], images, x)


def random_noise_std(n: int, p: float) -> Tensor:
    """Random standard deviations of the noise for `n` images, half-normal, float64 `[N]`; 0 with probability 1 - p."""
    return with_probability(p, normal(NOISE_STD, n).abs(), 0)


def add_noise(images: Tensor, std: Tensor) -> Tensor:
    """Add white noise of the standard deviations `[N]` to images `[N, C, H, W]`."""
    return images + torch.randn_like(images) * std.to(images)[:, None, None, None]


def random_cutouts(n: int, p: float) -> Tensor:
    """Random squares for `n` images, float64 `[N, 3]`: centre x, centre y and size, as shares of the side.

    The size is 0 (nothing is cut) with probability 1 - p.
    """
    size = with_probability(p, torch.full((n, 1), CUTOUT_SIZE, dtype=torch.float64), 0)
    return torch.cat([uniform(0, 1, n, 2), size], 1)


def cut_out(images: Tensor, cutouts: Tensor) -> Tensor:
    """Set a square of each image `[N, C, H, W]` to 0, the middle of the range. `cutouts` is `[N, 3]`."""
    x, y, size = cutouts.unbind(1)
    rows = _cut_pixels(images.shape[2], y, size)
    columns = _cut_pixels(images.shape[3], x, size)
    cut = (rows[:, :, None] & columns[:, None, :]).to(images.device)
    return images * ~cut[:, None]


def _cut_pixels(side: int, centre: Tensor, size: Tensor) -> Tensor:
    """A mask of the pixels of one axis that a cutout covers, boolean `[N, side]`."""
    pixel = torch.arange(side, dtype=torch.float64)
    first, end = ((centre - size / 2) * side).round(), ((centre + size / 2) * side).round()
    return (pixel >= first[:, None]) & (pixel < end[:, None])


def _reflect_pad(x: Tensor, margin: int) -> Tensor:
    """Reflection padding on all sides. A margin wider than the image is reflected repeatedly."""
    while margin > 0:
        step = min(margin, min(x.shape[2:]) - 1)
        x, margin = F.pad(x, [step] * 4, mode="reflect"), margin - step
    return x
