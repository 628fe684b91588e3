"""Converts settings of foreign checkpoints to ours: channels, FIR taps, learning rate of the mapping.

It also makes the notes about them that `stylert import` prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from stylert.models.importers.errors import UnsupportedNetworkError, printable
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER


@contextmanager
def valid_configuration(network: str) -> Iterator[None]:
    """Turn the errors of a configuration that is not valid into UnsupportedNetworkError, in one line."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as e:
        reason = " ".join(str(e).split())[:200]
        raise UnsupportedNetworkError(f"its {network} has no valid configuration: {reason}") from None


def channel_settings(channels: Mapping[int, int], base: object = None, maximum: object = None) -> dict[str, int]:
    """`channel_base` and `channel_max` that give these channels.

    Args:
        channels: Resolution to channels, from the shapes of the weights.
        base: `channel_base` in the file. It is used where it gives the channels.
        maximum: `channel_max` in the file, likewise.

    Raises:
        UnsupportedNetworkError: The channels do not follow `min(base // resolution, maximum)`.
    """

    def give_channels(base: int, maximum: int) -> bool:
        return all(min(base // res, maximum) == count for res, count in channels.items())

    if type(base) is int and type(maximum) is int and give_channels(base, maximum):
        return {"channel_base": base, "channel_max": maximum}
    smallest_base = max(count * res for res, count in channels.items())
    largest = max(channels.values())
    if not give_channels(smallest_base, largest):
        plan = ", ".join(f"{count} at {res} px" for res, count in channels.items())
        raise UnsupportedNetworkError(f"its channels, {plan}, do not follow min(base / resolution, maximum)")
    return {"channel_base": smallest_base, "channel_max": largest}


def fir_taps(f: np.ndarray, filter_name: str) -> tuple[float, ...]:
    """The taps of a FIR filter: as whole numbers where they can be scaled to them, such as (1, 3, 3, 1).

    Args:
        f: The filter, `[n, n]`, or `[n]` where the file keeps it separable.
        filter_name: For messages.

    Raises:
        UnsupportedNetworkError: The filter is not the outer product of its taps.
    """
    f = f.astype(np.float64) / f.sum(dtype=np.float64)
    taps = f if f.ndim == 1 else f.sum(1)
    if f.ndim == 2 and not np.allclose(f, np.outer(taps, taps), rtol=1e-4, atol=1e-6):
        raise UnsupportedNetworkError(f"its filter {filter_name} is not separable")
    scaled = taps / np.abs(taps[np.abs(taps) > 1e-6]).min()
    whole = np.rint(scaled)
    return tuple(float(tap) for tap in (whole if np.allclose(scaled, whole, atol=1e-4) else taps))


def fir_filter(taps: tuple[float, ...]) -> np.ndarray:
    """The buffer `resample_filter` of a state dict: float32 `[n, n]` with unit sum."""
    f = np.outer(taps, taps)
    return (f / f.sum()).astype(np.float32)


def mapping_gain(lr: object, network: str) -> float:
    """The factor that turns mapping weights of another learning rate multiplier into ours.

    A layer uses `weight * lr`, so the weights of multiplier `lr` serve with ours once they are scaled by their ratio.

    Raises:
        UnsupportedNetworkError: The multiplier is not a number between 1e-6 and 1e6.
    """
    if not isinstance(lr, int | float) or not 1e-6 < lr < 1e6:
        raise UnsupportedNetworkError(f"its {network} has the mapping learning rate multiplier {printable(lr)}")
    return lr / MAPPING_LR_MULTIPLIER


def mapping_gain_notes(lr: float, network: str) -> list[str]:
    """A note for the user where `mapping_gain` is not 1."""
    if lr == MAPPING_LR_MULTIPLIER:
        return []
    rescaled = f"its weights are rescaled to that of {MAPPING_LR_MULTIPLIER:g}"
    return [f"{network} has mapping learning rate multiplier {lr:g}: {rescaled}"]


def epsilon_note(code: str) -> str:
    """A note for code that scales weights in front of the demodulation, so that its epsilon counts differently."""
    return f"{code} scales the epsilon of the demodulation differently: images agree to float32 rounding, not to the bit"
