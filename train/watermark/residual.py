"""A small network that estimates the part of an image which its generator would not draw.

A mark is faint beside the edges of an image. A filter of fine differences passes both. This network has learnt what unmarked
images look like, as a denoiser does (DnCNN, Zhang et al. 2017), so it leaves less of the image in its output. A receiver that
correlates this residual with known patterns is close to the locally optimal detector of a weak signal.

The network never sees a pattern or a key: it is trained on random fields of the same frequencies.
"""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.core.progress import Progress
from stylert.train.watermark.attacks import HALF, random_view, saved

#: Distance of the taps of each 3x3 convolution, in pixels, and channels between them.
DILATIONS, CHANNELS = (1, 2, 1, 2, 1), 24
#: Pixels that one output sees on each side.
RADIUS = sum(DILATIONS)
SLOPE = 0.1
#: Frequencies of marks, in cycles per pixel. Lower ones would be seen, and JPEG erases higher ones.
LOWEST, HIGHEST = 0.12, 0.3
#: Root mean squares of the fields in training, in levels of 255, and how much the colour channels differ.
LEVELS, COLOR = (1.5, 6.0), 0.3
BATCH, RATE = 16, 3e-3


class ResidualNetwork(nn.Sequential):
    """Five convolutions without normalisation, whose output has the size of the image."""

    def __init__(self) -> None:
        channels = [3, *[CHANNELS] * (len(DILATIONS) - 1), 1]
        super().__init__(*(nn.Conv2d(a, b, 3, dilation=d) for a, b, d in zip(channels, channels[1:], DILATIONS, strict=False)))

    def forward(self, x: Tensor) -> Tensor:
        """Images `[N, 3, h, w]` in [-1, 1] to residuals `[N, h, w]`. Pixels beyond the border are those of the border."""
        *hidden, last = self
        x = F.pad(x, (RADIUS,) * 4, mode="replicate")
        for layer in hidden:
            x = F.leaky_relu(layer(x), SLOPE)
        residual: Tensor = last(x)[:, 0]
        return residual


def train_residual(images: Tensor, steps: int, seed: int, progress: Progress | None = None) -> ResidualNetwork:
    """Train a network on images that carry random fields, through random edits.

    Args:
        images: Unmarked images `[N, 3, side, side]` in [-1, 1].
        steps: Training steps of `BATCH` images.
        seed: Seed of weights, fields and edits.
        progress: Called after each step.

    Returns:
        The network, frozen, on the device of the images. Its output is the mean of the field, given the image.
    """
    side, device, draws = images.shape[2], images.device, random.Random(seed)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        network = ResidualNetwork().to(device)
        optimizer = torch.optim.Adam(network.parameters(), RATE)
        band = frequency_band(side).to(device)
        for step in range(steps):
            share = step / steps
            optimizer.param_groups[0]["lr"] = RATE * min(1.0, 20 * (share + 0.01)) * (1 + math.cos(math.pi * share)) / 2
            x = images[torch.randint(len(images), (BATCH,), device=device)]
            fields = random_fields(BATCH, band)
            level = torch.empty(BATCH, 1, 1, 1, device=device).uniform_(*LEVELS) / HALF
            color = 1 + COLOR * torch.randn(BATCH, 3, 1, 1, device=device)
            view, top, left = random_view(saved(x + level * color * fields[:, None]), side, draws)
            target = fields[:, top : top + view.shape[2], left : left + view.shape[3]]
            optimizer.zero_grad()
            (network(view) - target).square().mean().backward()
            optimizer.step()
            if progress is not None:
                progress("decoder", step + 1, steps)
    return network.requires_grad_(False)


def frequency_band(side: int) -> Tensor:
    """Ones at the frequencies of marks and zeros elsewhere, float64 `[side, side]`, in the order of `torch.fft`."""
    frequency = torch.fft.fftfreq(side, dtype=torch.float64)
    radius = (frequency[:, None].square() + frequency[None].square()).sqrt()
    return ((radius >= LOWEST) & (radius <= HIGHEST)).double()


def random_fields(count: int, band: Tensor) -> Tensor:
    """Normal fields of the frequencies of a band with mean square 1, float32 `[count, side, side]`, from PyTorch's random state."""
    white = torch.randn(count, *band.shape, device=band.device, dtype=torch.float64)
    fields = torch.fft.ifft2(torch.fft.fft2(white) * band).real
    return (fields / fields.square().mean((1, 2), keepdim=True).sqrt()).float()
