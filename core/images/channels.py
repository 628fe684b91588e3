"""The meaning of an image's channels: colors with alpha, or measured values with a name and a unit.

Grey and RGB images, and both with alpha, are pictures. Any other image holds values, such as a temperature. A network makes
values in about [-1, 1]. `scale` and `offset` of each channel lead from them to the unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Channels of an image of measured values, at most.
MAX_CHANNELS = 8
#: Numbers of channels of a picture: grey, grey with alpha, RGB, RGB with alpha.
PICTURE_CHANNELS = (1, 2, 3, 4)
#: Greatest magnitude of a scale or an offset, far within float32.
MAX_MAGNITUDE = 1e30
MAX_NAME, MAX_UNIT = 64, 32


@dataclass(frozen=True)
class Channel:
    """A channel of measured values: `value = scale * y + offset`, with y in about [-1, 1].

    Attributes:
        name: Its name, such as `temperature`.
        unit: The unit of its values, such as `K`. Empty for a number without a unit.
        scale: Half the range of the values in the unit, above 0.
        offset: The value in the middle of the range.

    Raises:
        ValueError: A text is too long or not printable, or a number is out of range.
    """

    name: str
    unit: str = ""
    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        for field, text, least, most in (("name", self.name, 1, MAX_NAME), ("unit", self.unit, 0, MAX_UNIT)):
            if not isinstance(text, str) or not text.isprintable() or not least <= len(text) <= most:
                raise ValueError(f"the {field} of a channel is a printable text of {least} to {most} characters")
        for field, number in (("scale", self.scale), ("offset", self.offset)):
            if not isinstance(number, int | float) or isinstance(number, bool) or not abs(number) <= MAX_MAGNITUDE:
                raise ValueError(f"the {field} of channel {self.name} is a number of at most {MAX_MAGNITUDE:g}")
        if not self.scale > 1 / MAX_MAGNITUDE:
            raise ValueError(f"the scale of channel {self.name} is above 0")


def check_channels_of_image(channels: Sequence[Channel], count: int) -> None:
    """Raise ValueError unless these can be the channels of an image with `count` of them, each with a name of its own."""
    if len(channels) != count or not 1 <= count <= MAX_CHANNELS:
        raise ValueError(f"{len(channels)} channels are described, and the image has {count}; at most {MAX_CHANNELS} are")
    names = [channel.name for channel in channels]
    if len(set(names)) < len(names):
        raise ValueError("two channels have one name")


def in_units(images: np.ndarray, channels: Sequence[Channel]) -> np.ndarray:
    """Images of a network in the units of their channels.

    Args:
        images: float `[N, C, H, W]`, nominally in [-1, 1].
        channels: The C channels.

    Returns:
        float32 `[N, C, H, W]`. The arithmetic is that of float64.
    """
    scale = np.array([channel.scale for channel in channels]).reshape(-1, 1, 1)
    offset = np.array([channel.offset for channel in channels]).reshape(-1, 1, 1)
    return (images.astype(np.float64) * scale + offset).astype(np.float32)


def viewable(images: np.ndarray, are_values: bool = False) -> np.ndarray:
    """Images that a picture file can show: each channel becomes a grey tile where the channels are no colors.

    Args:
        images: uint8 `[N, H, W, C]`.
        are_values: Whether the channels are measured values, whatever their number.

    Returns:
        The images themselves if they are pictures. Otherwise `[N, rows * H, columns * W, 1]`: the channels in their order,
        row by row, in rows that are nearly square. Cells without a channel are white.
    """
    n, h, w, c = images.shape
    if c == 1 or (c in PICTURE_CHANNELS and not are_values):
        return images
    columns = math.isqrt(c - 1) + 1
    rows = math.ceil(c / columns)
    cells = np.full((n, rows * columns, h, w), 255, np.uint8)
    cells[:, :c] = images.transpose(0, 3, 1, 2)
    tiles = cells.reshape(n, rows, columns, h, w).transpose(0, 1, 3, 2, 4)
    return tiles.reshape(n, rows * h, columns * w, 1)
