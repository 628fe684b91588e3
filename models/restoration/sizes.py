"""The sizes of a restoration network: what its configurations check alike."""

from __future__ import annotations

#: Least and greatest side of the photograph, in pixels.
MIN_RESOLUTION, MAX_RESOLUTION = 8, 2048
#: Greatest number of channels or features.
MAX_CHANNELS = 4096


def resolutions(resolution: int) -> list[int]:
    """4, 8, ... up to `resolution`."""
    return [1 << i for i in range(2, resolution.bit_length())]


def check_sizes(resolution: int, w_dim: int, *channels: tuple[int, ...]) -> None:
    """Check a configuration.

    Args:
        resolution: Side of the photograph.
        w_dim: Width of a latent.
        *channels: For each part of the network its channels, by resolution from 4 px on.

    Raises:
        ValueError: A number is out of range, or a part has too few or too many resolutions.
    """
    if not MIN_RESOLUTION <= resolution <= MAX_RESOLUTION or resolution.bit_count() != 1:
        raise ValueError(f"resolution is a power of two from {MIN_RESOLUTION} to {MAX_RESOLUTION}, not {resolution}")
    for count in (w_dim, *(count for part in channels for count in part)):
        if not 1 <= count <= MAX_CHANNELS:
            raise ValueError(f"a layer has 1 to {MAX_CHANNELS} channels, not {count}")
    for part in channels:
        if len(part) != len(resolutions(resolution)):
            raise ValueError(f"a network of {resolution} px has {len(resolutions(resolution))} resolutions, not {len(part)}")
