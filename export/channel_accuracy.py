"""The accuracy of each channel by itself. The mean over the channels of a picture could hide one that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stylert.core.images.channels import Channel
from stylert.core.images.similarity import IDENTICAL_DB

#: Steps of a byte between -1 and 1, the range of a channel.
STEPS = 255.0
#: Units of pictures.
STEP_UNIT = "/255"
#: The names of the channels of pictures with alpha, by their number.
NAMES = {2: ("grey", "alpha"), 4: ("red", "green", "blue", "alpha")}


@dataclass(frozen=True)
class ChannelAccuracy:
    """The accuracy of one channel over all images. `bundle.json` holds these fields by name, so the names stay.

    Attributes:
        name: The channel's name.
        unit: The unit of the errors: that of the channel, or `/255` for pictures.
        psnr_db: 20 log10(range / rms error), at most 100. The range is that of the channel, from -1 to 1 in the network.
        rms_error: The root of the mean square error.
        max_error: The greatest error of any value.
        rms_bound: The rms error at the PSNR that the bundle promises. A network whose `rms_error` is greater is refused.
    """

    name: str
    unit: str
    psnr_db: float
    rms_error: float
    max_error: float
    rms_bound: float


def channel_accuracies(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], channels: Sequence[Channel], min_psnr_db: float
) -> tuple[ChannelAccuracy, ...]:
    """Compare each channel.

    Args:
        pairs: Images and their references, `[H, W, C]`, in steps of 1/255 of the range.
        channels: The channels of measured values; empty for pictures.
        min_psnr_db: The PSNR that the bundle promises.

    Returns:
        One for each channel; none for pictures that are grey or RGB.
    """
    count = pairs[0][0].shape[2]
    if not channels and count in (1, 3):
        return ()
    squares, greatest = np.zeros(count), np.zeros(count)
    for image, reference in pairs:
        error = np.abs(image.astype(np.float64) - reference)
        squares += np.square(error).mean((0, 1))
        greatest = np.maximum(greatest, error.max((0, 1)))
    rms = np.sqrt(squares / len(pairs))
    names = NAMES.get(count, tuple(f"channel{i}" for i in range(count)))
    accuracies = []
    for i in range(count):
        step = 2 * channels[i].scale / STEPS if channels else 1.0
        least = STEPS / 10 ** (IDENTICAL_DB / 20)
        accuracies.append(
            ChannelAccuracy(
                name=channels[i].name if channels else names[i],
                unit=channels[i].unit if channels else STEP_UNIT,
                psnr_db=round(float(20 * np.log10(STEPS / max(rms[i], least))), 2),
                rms_error=float(f"{rms[i] * step:.6g}"),
                max_error=float(f"{greatest[i] * step:.6g}"),
                rms_bound=float(f"{STEPS * 10 ** (-min_psnr_db / 20) * step:.6g}"),
            )
        )
    return tuple(accuracies)
