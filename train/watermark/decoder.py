"""The decoder: a spread-spectrum receiver behind a network that takes the image away.

Each bit belongs to a secret random pattern of 64x64 values. A `ResidualNetwork` estimates the part of an image that its
generator would not draw, and the decoder correlates this residual with the patterns. The same steps are an ONNX graph in
`stylert.runtime.watermark.decoder_graph`.

At last the outputs are whitened: over unmarked images they have mean 0, variance 1 and no correlation. So the bits of an
unmarked image are like coins.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from stylert.core.errors import InputError
from stylert.train.watermark.residual import ResidualNetwork, frequency_band

#: A whitened output never has less than this share of the mean variance. A smaller one would be a division by noise.
LEAST_VARIANCE = 1e-4
BATCH = 64


class Decoder(nn.Module):
    """Reads bits from images that are registered: at the scale and the place of the whole image."""

    def __init__(self, patterns: Tensor, bias: Tensor, residual: ResidualNetwork) -> None:
        super().__init__()
        self.patterns: Tensor
        self.bias: Tensor
        self.register_buffer("patterns", patterns)
        self.register_buffer("bias", bias)
        self.residual = residual

    @staticmethod
    def draw(bits: int, side: int, seed: int, residual: ResidualNetwork) -> Decoder:
        """A decoder with random patterns, not yet whitened.

        Args:
            bits: Number of bits.
            side: Height and width in pixels at which a whole image is read.
            seed: The patterns follow from it, so it is as secret as the key.
            residual: Takes the image away. It is on the CPU.

        Raises:
            InputError: There are too few patterns of so few pixels.
        """
        check_capacity(bits, side)
        draws = np.random.default_rng(seed).standard_normal((bits, side, side))
        drawn = torch.fft.ifft2(torch.fft.fft2(torch.from_numpy(draws)) * frequency_band(side)).real
        orthonormal, _ = torch.linalg.qr(drawn.reshape(bits, -1).T)
        return Decoder(orthonormal.T.reshape(bits, side, side).float(), torch.zeros(bits), residual)

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
        return self.correlate(self.residual(x), top, left)

    def correlate(self, residuals: Tensor, top: int = 0, left: int = 0) -> Tensor:
        """The outputs `[N, bits]` for residuals `[N, h, w]` whose first pixel is at `top` and `left`."""
        height, width = residuals.shape[1:]
        window = self.patterns[:, top : top + height, left : left + width]
        return torch.einsum("nhw,bhw->nb", residuals, window) + self.bias

    @torch.no_grad()
    def whiten(self, images: Tensor) -> Decoder:
        """A decoder whose outputs have mean 0 and the identity as covariance over unmarked images `[N, 3, side, side]`."""
        matrix, mean = whitening(torch.cat([self(part) for part in images.split(BATCH)]))
        patterns = torch.einsum("ab,bhw->ahw", matrix, self.patterns.double().cpu())
        bias = matrix @ (self.bias.double().cpu() - mean)
        return Decoder(patterns.float(), bias.float(), self.residual).to(self.bias.device)

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights by name, float32."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.state_dict().items()}


def check_capacity(bits: int, side: int) -> None:
    """Raise InputError if images of `side` pixels hold fewer than `bits` patterns."""
    most = int(frequency_band(side).sum()) // 2
    if bits > most:
        raise InputError(f"images of {side} pixels hold at most {most} bits, not {bits}")


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
