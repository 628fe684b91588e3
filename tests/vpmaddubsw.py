"""VPMADDUBSW in NumPy: how convolutions of bytes are computed on x86 without VNNI, and exactly."""

from __future__ import annotations

import numpy as np


def convolution(x: np.ndarray, kernel: np.ndarray, zero_point: int, saturate: bool) -> np.ndarray:
    """A convolution of bytes with padding, in integers.

    The library multiplies unsigned bytes. It corrects the sum by that of the kernel times the zero point.

    Args:
        x: `[I, H, W]`, unsigned.
        kernel: `[O, I, k, k]`, signed.
        zero_point: The level of 0 in `x`, also in the padding.
        saturate: Whether the products of input channels 2 i and 2 i + 1 are added in 16 bits. Otherwise all sums are exact.

    Returns:
        `[O, H, W]`.
    """
    outputs, inputs, size, _ = kernel.shape
    height, width = x.shape[1:]
    pad = size // 2
    padded = np.pad(x.astype(np.int64), ((0, inputs % 2), (pad, pad), (pad, pad)), constant_values=zero_point)
    weights = np.pad(kernel.astype(np.int64), ((0, 0), (0, inputs % 2), (0, 0), (0, 0)))
    total = np.zeros((outputs, height, width), np.int64)
    for dy in range(size):
        for dx in range(size):
            window = padded[:, dy : dy + height, dx : dx + width]
            products = weights[:, :, dy, dx, None, None] * window
            pairs = products[:, 0::2] + products[:, 1::2]
            total += (np.clip(pairs, -(2**15), 2**15 - 1) if saturate else pairs).sum(1)
    return total - zero_point * weights.sum((1, 2, 3))[:, None, None]


def transposed_convolution(x: np.ndarray, kernel: np.ndarray, zero_point: int, saturate: bool) -> np.ndarray:
    """The same for a transposed convolution with stride 2: x `[I, H, W]` and kernel `[O, I, k, k]` give `[O, 2 H + k - 2, ...]`."""
    outputs, _, size, _ = kernel.shape
    height, width = x.shape[1:]
    total = np.zeros((outputs, 2 * height + size - 2, 2 * width + size - 2), np.int64)
    for dy in range(size):
        for dx in range(size):
            tap = convolution(x, kernel[:, :, dy : dy + 1, dx : dx + 1], zero_point, saturate)
            total[:, dy : dy + 2 * height : 2, dx : dx + 2 * width : 2] += tap
    return total
