"""The photographs on which a restoration network is calibrated and judged.

Drawn ones stand in where the user gives none. They have the spectrum of natural pictures, whose amplitude falls with the frequency
(Field 1987), and faults of the kinds that restoration meets: blur, noise and few pixels. They show no faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stylert.core.errors import InputError
from stylert.runtime.restoration.photographs import read_photograph, resized

#: Photographs that are drawn or taken, at most.
COUNT = 8
#: Deviation of a drawn photograph around grey, and of the noise on it, in steps of 255.
CONTRAST, NOISE = 60.0, 8.0


def photographs(side: int, files: Sequence[Path] = (), count: int = COUNT, first_seed: int = 0) -> np.ndarray:
    """Photographs for a network, uint8 `[N, side, side, 3]`.

    Args:
        side: Side of the network's photographs, in pixels.
        files: Pictures of the user, of which the first `count` are taken. Without any, photographs are drawn.
        count: The number of photographs, at least 2.
        first_seed: The seed of the first one that is drawn.

    Raises:
        InputError: There is only one file.
        DataError: A file is no picture.
    """
    if not files:
        return np.stack([drawn_photograph(side, seed) for seed in range(first_seed, first_seed + count)])
    if len(files) == 1:
        raise InputError("a network is calibrated on at least two photographs")
    return np.stack([resized(read_photograph(file), side) for file in files[:count]])


def drawn_photograph(side: int, seed: int) -> np.ndarray:
    """A drawn photograph, uint8 `[side, side, 3]`. Every second one is blurred, and every third one has noise."""
    rng = np.random.default_rng([seed, side])
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) * side
    falloff = 1 / np.maximum(frequency, 1)
    if seed % 2:
        falloff = falloff * np.exp(-np.square(frequency / (side / 16)))
    planes = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((3, side, side))) * falloff, s=(side, side))
    planes /= planes.std((1, 2), keepdims=True)
    # Channels of photographs agree for the most part.
    planes = 0.8 * planes[:1] + 0.4 * planes
    image = 127.5 + CONTRAST * planes.transpose(1, 2, 0)
    if seed % 3 == 0:
        image = image + NOISE * rng.standard_normal(image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
