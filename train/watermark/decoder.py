"""The decoder: a spread-spectrum receiver, which needs no training.

Each bit belongs to a secret random pattern of 64x64 values. The decoder keeps the fine differences of brightness, bounds
them, so that strong edges do not outweigh the rest, and correlates them with the patterns. The same steps are an ONNX graph
in `stylert.runtime.watermark.decoder_graph`.

At last the outputs are whitened: over unmarked images they have mean 0, variance 1 and no correlation. So the bits of an
unmarked image are like coins.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylert.core.errors import InputError

#: Brightness from RGB (ITU-R BT.601), as in JPEG.
LUMA = (0.299, 0.587, 0.114)
#: The differences are those from a Gaussian mean of this deviation, in pixels.
MEAN_SIGMA, RADIUS = 1.5, 6
#: Bound of a difference, for images in [-1, 1]: about two of 255 levels.
BOUND = 0.015
#: Frequencies of the patterns, in cycles per pixel. Lower ones would be seen, and JPEG erases higher ones.
LOWEST, HIGHEST = 0.12, 0.3
#: A whitened output never has less than this share of the mean variance. A smaller one would be a division by noise.
LEAST_VARIANCE = 1e-4
BATCH = 64


class Decoder(nn.Module):
    """Reads bits from images that are registered: at the scale and the place of the whole image."""

    def __init__(self, patterns: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.patterns: Tensor
        self.bias: Tensor
        self.difference: Tensor
        self.register_buffer("patterns", patterns)
        self.register_buffer("bias", bias)
        self.register_buffer("difference", difference_filter())

    @staticmethod
    def draw(bits: int, side: int, seed: int) -> Decoder:
        """A decoder with random patterns, not yet whitened.

        Args:
            bits: Number of bits.
            side: Height and width in pixels at which a whole image is read.
            seed: The patterns follow from it, so it is as secret as the key.

        Raises:
            InputError: There are too few patterns of so few pixels.
        """
        frequency = torch.fft.fftfreq(side, dtype=torch.float64)
        radius = (frequency[:, None].square() + frequency[None].square()).sqrt()
        band = ((radius >= LOWEST) & (radius <= HIGHEST)).double()
        if bits > int(band.sum()) // 2:
            raise InputError(f"images of {side} pixels hold at most {int(band.sum()) // 2} bits, not {bits}")
        draws = np.random.default_rng(seed).standard_normal((bits, side, side))
        drawn = torch.fft.ifft2(torch.fft.fft2(torch.from_numpy(draws)) * band).real
        orthonormal, _ = torch.linalg.qr(drawn.reshape(bits, -1).T)
        return Decoder(orthonormal.T.reshape(bits, side, side).float(), torch.zeros(bits))

    @property
    def bits(self) -> int:
        """The number of bits."""
        return len(self.patterns)

    @property
    def side(self) -> int:
        """Height and width at which a whole image is read."""
        return self.patterns.shape[1]

    def forward(self, x: Tensor, top: int = 0, left: int = 0) -> Tensor:
        """Images `[N, 3, h, w]` in [-1, 1] to one number per bit, `[N, bits]`. A positive number is a one.

        An image smaller than `side` is a part of the whole one, whose first pixel is at `top` and `left`.
        """
        return self.correlate(self.differences(x), top, left)

    def differences(self, x: Tensor) -> Tensor:
        """The bounded fine differences of brightness of images `[N, 3, h, w]`, `[N, h, w]`."""
        padded = F.pad(x, (RADIUS,) * 4, mode="replicate")
        return torch.tanh(F.conv2d(padded, self.difference) / BOUND)[:, 0]

    def correlate(self, differences: Tensor, top: int = 0, left: int = 0) -> Tensor:
        """The outputs `[N, bits]` for differences `[N, h, w]` whose first pixel is at `top` and `left`."""
        height, width = differences.shape[1:]
        window = self.patterns[:, top : top + height, left : left + width]
        return torch.einsum("nhw,bhw->nb", differences, window) + self.bias

    @torch.no_grad()
    def whiten(self, images: Tensor) -> Decoder:
        """A decoder whose outputs have mean 0 and the identity as covariance over unmarked images `[N, 3, side, side]`."""
        matrix, mean = whitening(torch.cat([self(part) for part in images.split(BATCH)]))
        patterns = torch.einsum("ab,bhw->ahw", matrix, self.patterns.double().cpu())
        bias = matrix @ (self.bias.double().cpu() - mean)
        return Decoder(patterns.float(), bias.float()).to(self.bias.device)

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by name, float32."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.state_dict().items()}


def difference_filter() -> Tensor:
    """The filter from RGB to the difference of brightness from its mean around a pixel, `[1, 3, 13, 13]`."""
    taps = torch.tensor([math.exp(-(i**2) / (2 * MEAN_SIGMA**2)) for i in range(-RADIUS, RADIUS + 1)])
    kernel = -torch.outer(taps, taps) / taps.sum() ** 2
    kernel[RADIUS, RADIUS] += 1
    return torch.stack([kernel * weight for weight in LUMA])[None]


def whitening(outputs: Tensor, shrinkage: float = 0.0) -> tuple[Tensor, Tensor]:
    """The matrix and the mean by which outputs become white: `matrix @ (output - mean)` has the identity as covariance.

    Args:
        outputs: `[N, bits]`.
        shrinkage: Share of the mean variance in the covariance, which few outputs tell badly.

    Returns:
        float64 `[bits, bits]` and `[bits]`, on the CPU. The matrix is symmetric: each bit stays close to itself.
    """
    x = outputs.double().cpu()
    bits = x.shape[1]
    covariance = torch.cov(x.T).reshape(bits, bits)
    level = covariance.diagonal().mean().clamp_min(1e-12)
    values, vectors = torch.linalg.eigh((1 - shrinkage) * covariance + shrinkage * level * torch.eye(bits, dtype=x.dtype))
    scales = values.clamp_min(float(level) * LEAST_VARIANCE).rsqrt()
    return vectors @ torch.diag(scales) @ vectors.T, x.mean(0)
