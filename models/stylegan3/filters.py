"""The low-pass filters of StyleGAN3: a sinc or a jinc under a Kaiser window (Karras et al. 2021, appendix C.1). No torch.

The ideal low-pass filter is a sinc function on one axis. The ideal filter with a circular passband is a jinc function
of the distance, which is symmetric under rotation. Both are infinite, so a window ends them.
"""

from __future__ import annotations

import numpy as np

from stylert.models.stylegan3.layer_list import LayerSpec


def up_filter(layer: LayerSpec) -> np.ndarray | None:
    """The upsampling filter of a layer, float32 `[t]` with unit sum, or None where the layer has none."""
    if layer.up_taps == 1:
        return None
    return separable_lowpass(layer.up_taps, layer.in_cutoff, layer.in_half_width, layer.inner_rate)


def down_filter(layer: LayerSpec) -> np.ndarray | None:
    """The downsampling filter of a layer, float32 `[t]`, radial `[t, t]`, with unit sum, or None where it has none."""
    if layer.down_taps == 1:
        return None
    make = radial_lowpass if layer.is_radial else separable_lowpass
    return make(layer.down_taps, layer.out_cutoff, layer.out_half_width, layer.inner_rate)


def separable_lowpass(taps: int, cutoff: float, half_width: float, rate: float) -> np.ndarray:
    """A windowed sinc, the same on both axes.

    Args:
        taps: Number of taps.
        cutoff: Frequency up to which signals pass, in cycles per unit.
        half_width: Half-width of the transition band around the cutoff, likewise.
        rate: Sampling rate of the filter, in samples per unit.

    Returns:
        float32 `[taps]` with unit sum.
    """
    positions = _positions(taps, rate)
    return _unit_sum(np.sinc(2 * cutoff * positions) * _window(taps, half_width, rate))


def radial_lowpass(taps: int, cutoff: float, half_width: float, rate: float) -> np.ndarray:
    """A windowed jinc `J1(2 pi cutoff r) / (pi r)`. Arguments as those of `separable_lowpass`.

    Returns:
        float32 `[taps, taps]` with unit sum.
    """
    positions = _positions(taps, rate)
    radii, place = np.unique(np.hypot(positions[:, None], positions), return_inverse=True)
    centre = radii == 0
    # J1(x) is about x / 2 near 0, so the jinc is `cutoff` there.
    jinc = np.where(centre, cutoff, _bessel_j1(2 * np.pi * cutoff * radii) / (np.pi * np.where(centre, 1, radii)))
    window = _window(taps, half_width, rate)
    return _unit_sum(jinc[place].reshape(taps, taps) * np.outer(window, window))


def _positions(taps: int, rate: float) -> np.ndarray:
    """Positions of the taps around the centre of the filter, in units of length."""
    return (np.arange(taps) - (taps - 1) / 2) / rate


def _window(taps: int, half_width: float, rate: float) -> np.ndarray:
    """Kaiser's window for a transition band of twice the half-width, by his formulas for length and beta (Kaiser 1974)."""
    width = 2 * half_width / (rate / 2)  # relative to the highest frequency
    attenuation = 2.285 * (taps - 1) * np.pi * width + 7.95  # in decibels
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    return np.kaiser(taps, beta)


def _bessel_j1(x: np.ndarray) -> np.ndarray:
    """Bessel's function of the first kind and order 1, by the midpoint rule on its integral (Abramowitz & Stegun 9.1.21).

    The integrand is periodic, so the error falls faster than any power once there are more points than `|x|`.
    """
    points = 64 + 2 * int(np.ceil(np.abs(x).max(initial=0)))
    angles = (np.arange(points) + 0.5) * (2 * np.pi / points)
    return np.mean(np.cos(angles - x[..., None] * np.sin(angles)), axis=-1)


def _unit_sum(f: np.ndarray) -> np.ndarray:
    return (f / f.sum()).astype(np.float32)
