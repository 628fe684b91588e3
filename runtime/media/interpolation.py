"""Interpolation of latents: between two, and along a path of keyframes.

- `lerp` is a straight line, for latents w, in which distances have a meaning.
- `slerp` is an arc of a great circle, for latents z. Gaussian latents of many dimensions lie near a sphere, and a straight
  line between them would pass through norms that the network never saw in training.
- `catmull_rom` is a cubic without jumps of speed at the keyframes.
- `keyframe_path` joins many keyframes by one of these. It yields small batches, so a long video needs no more memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np

from stylert.core.errors import InputError, shown
from stylert.runtime.input_checks import whole_number, yes_or_no

Curve = Literal["smooth", "linear", "sphere"]

#: All keyframes are in memory at once; the points between them are not.
MAX_KEYFRAMES = 4096


def lerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The point at `t` on the straight line from `a` (t = 0, exactly) to `b` (t = 1, exactly)."""
    a, b = np.asarray(a), np.asarray(b)
    return ((1 - t) * a.astype(np.float64) + t * b.astype(np.float64)).astype(a.dtype)


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The point at `t` on the great circle from `a` (t = 0, exactly) to `b` (t = 1, exactly). Shoemake 1985.

    The direction turns at constant speed, and the norm changes linearly, so equal norms are kept.

    Args:
        a: Latents `[..., dim]`.
        b: Latents of the same shape. If `a` and `b` have the same or opposite directions, the line is straight.
        t: A number in [0, 1].
    """
    a, b = np.asarray(a), np.asarray(b)
    x, y = a.astype(np.float64), b.astype(np.float64)
    norm_x, norm_y = np.linalg.norm(x, axis=-1, keepdims=True), np.linalg.norm(y, axis=-1, keepdims=True)
    norm = (1 - t) * norm_x + t * norm_y
    with np.errstate(divide="ignore", invalid="ignore"):
        # Kahan's formula for the angle is exact near 0 and pi, where the arc cosine is not.
        u, v = x / norm_x, y / norm_y
        angle = 2 * np.arctan2(np.linalg.norm(u - v, axis=-1, keepdims=True), np.linalg.norm(u + v, axis=-1, keepdims=True))
        sine = np.sin(angle)
        from_a = np.sin((1 - t) * angle) / sine * (norm / norm_x) * x
        from_b = np.sin(t * angle) / sine * (norm / norm_y) * y
        point = from_a + from_b
    return np.where(sine > 1e-7, point, (1 - t) * x + t * y).astype(a.dtype)


def catmull_rom(before: np.ndarray, a: np.ndarray, b: np.ndarray, after: np.ndarray, t: float) -> np.ndarray:
    """The point at `t` on a cubic from `a` (t = 0, exactly) to `b` (t = 1, exactly). Catmull and Rom 1974, uniform.

    The tangent at `a` is half the difference of `b` and `before`, and that at `b` is half the difference of `after` and `a`.
    """
    weights = (
        t * (-1 + t * (2 - t)) / 2,
        (2 + t * t * (3 * t - 5)) / 2,
        t * (1 + t * (4 - 3 * t)) / 2,
        t * t * (t - 1) / 2,
    )
    points = (before, a, b, after)
    return sum(w * p.astype(np.float64) for w, p in zip(weights, points, strict=True)).astype(a.dtype)  # type: ignore[union-attr]


def keyframe_path(
    keyframes: np.ndarray, frames: int, loop: bool = False, curve: Curve = "smooth", batch: int = 8
) -> Iterator[np.ndarray]:
    """Points on a path through keyframes, in equal steps.

    Args:
        keyframes: Latents `[K, ...]`.
        frames: The number of points. An open path has the first keyframe as its first point and the last as its last.
        loop: Whether the path returns to the first keyframe. The first keyframe is then not repeated at the end, so that a
            repeated video has no doubled frame.
        curve: "smooth" (`catmull_rom`), "linear" (`lerp`) or "sphere" (`slerp` over the last axis).
        batch: The number of points in each yielded array.

    Yields:
        Points `[<= batch, ...]` in the type of the keyframes.

    Raises:
        InputError: There are fewer than 2 keyframes, more than `MAX_KEYFRAMES`, or fewer than 2 frames. Or an argument is of
            another kind.
    """
    if not isinstance(keyframes, np.ndarray) or keyframes.ndim < 2 or keyframes.dtype.kind != "f":
        raise InputError(f"keyframes are an array of latents [K, ...], not {shown(keyframes)}")
    count = len(keyframes)
    if not 2 <= count <= MAX_KEYFRAMES:
        raise InputError(f"a path takes 2 to {MAX_KEYFRAMES} keyframes, not {count}")
    whole_number(frames, "frames", 2)
    whole_number(batch, "batch", 1, MAX_KEYFRAMES)
    loop = yes_or_no(loop, "loop")
    if not isinstance(curve, str) or curve not in get_args(Curve):
        raise InputError(f"a curve is one of {', '.join(get_args(Curve))}, not {shown(curve)}")
    return _batches(keyframes, frames, loop, curve, batch)


def _batches(keyframes: np.ndarray, frames: int, loop: bool, curve: Curve, batch: int) -> Iterator[np.ndarray]:
    for first in range(0, frames, batch):
        with np.errstate(over="ignore", invalid="ignore"):  # a network refuses values that are not finite
            points = np.stack([_point(keyframes, i, frames, loop, curve) for i in range(first, min(first + batch, frames))])
        yield points


def _point(keyframes: np.ndarray, i: int, frames: int, loop: bool, curve: Curve) -> np.ndarray:
    """Point `i` of `frames`. Its segment is computed in whole numbers, so that no rounding error misses a keyframe."""
    count = len(keyframes)
    segments, steps = (count, frames) if loop else (count - 1, frames - 1)
    segment, remainder = divmod(i * segments, steps)
    if segment == segments:  # the end of an open path
        return keyframes[-1].copy()
    t = remainder / steps
    a, b = keyframes[segment], keyframes[(segment + 1) % count]
    if curve == "sphere":
        return slerp(a, b, t)
    if curve == "linear":
        return lerp(a, b, t)
    # Beyond its ends an open path continues straight, so that two keyframes give a straight line.
    before = keyframes[segment - 1] if loop or segment > 0 else 2 * a - b
    after = keyframes[(segment + 2) % count] if loop or segment + 2 < count else 2 * b - a
    return catmull_rom(before, a, b, after, t)
