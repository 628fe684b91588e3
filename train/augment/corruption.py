"""The groups filter, noise and cutout: what is done to an image's spectrum and pixels (Karras et al. 2020b, appendix B)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stylert.train.augment.draws import log_normal, normal, sometimes, uniform
from stylert.train.augment.wavelets import band_filters

#: The share of a natural image's power in each band, by the 1/f law.
BAND_POWER = torch.tensor([10.0, 1, 1, 1], dtype=torch.float64) / 13
BAND_OCTAVES = 1.0
NOISE_DEVIATION = 0.1
CUTOUT_SIZE = 0.5  # of the side


def draw_band_gains(n: int, p: float) -> Tensor:
    """`[N, 4]` float64 gains of the bands; each drawn one leaves the expected power of the image as it was."""
    gains = torch.ones(n, 4, dtype=torch.float64)
    for band in range(4):
        amplified = sometimes(p, log_normal(BAND_OCTAVES, n), 1)
        power = 1 + BAND_POWER[band] * (amplified.square() - 1)
        gains[:, band] *= amplified
        gains /= power.sqrt()[:, None]
    return gains


def filter_bands(images: Tensor, gains: Tensor) -> Tensor:
    """Amplify the four bands of `images` `[N, C, H, W]` by `gains` `[N, 4]`, in both directions, with reflected edges."""
    n, c, h, w = images.shape
    taps = (gains @ torch.from_numpy(band_filters())).to(images)
    taps = taps.repeat_interleave(c, 0)
    reach = taps.shape[1] // 2
    # All images side by side as channels, so that each is filtered by its own taps in one convolution.
    x = _reflect(images.reshape(1, n * c, h, w), reach)
    x = F.conv2d(x, taps[:, None, None, :], groups=n * c)
    x = F.conv2d(x, taps[:, None, :, None], groups=n * c).reshape(n, c, h, w)
    untouched = (gains == 1).all(1).to(images.device)
    return torch.where(untouched[:, None, None, None], images, x)


def _reflect(x: Tensor, reach: int) -> Tensor:
    """Reflection padding that may be wider than the image, by reflecting again."""
    while reach > 0:
        step = min(reach, min(x.shape[2:]) - 1)
        x, reach = F.pad(x, [step] * 4, mode="reflect"), reach - step
    return x


def draw_noise_deviations(n: int, p: float) -> Tensor:
    """`[N]` float64: half-normal."""
    return sometimes(p, normal(NOISE_DEVIATION, n).abs(), 0)


def add_noise(images: Tensor, deviations: Tensor) -> Tensor:
    """White noise of `[N]` deviations on `[N, C, H, W]`."""
    return images + torch.randn_like(images) * deviations.to(images)[:, None, None, None]


def draw_cutouts(n: int, p: float) -> Tensor:
    """`[N, 3]` float64: the centre (x, y) of the cut square as a share of the side, and its size, 0 for none."""
    size = sometimes(p, torch.full((n, 1), CUTOUT_SIZE, dtype=torch.float64), 0)
    return torch.cat([uniform(0, 1, n, 2), size], 1)


def cut_out(images: Tensor, cutouts: Tensor) -> Tensor:
    """Blacken (in the middle of the range, 0) a rectangle of each image `[N, C, H, W]`."""
    masks = []
    for axis, side in ((1, images.shape[2]), (0, images.shape[3])):
        at = torch.arange(side, dtype=torch.float64)
        centre, half = cutouts[:, axis, None], cutouts[:, 2, None] / 2
        masks.append((at >= ((centre - half) * side).round()) & (at < ((centre + half) * side).round()))
    cut = (masks[0][:, :, None] & masks[1][:, None, :]).to(images.device)
    return images * ~cut[:, None]
