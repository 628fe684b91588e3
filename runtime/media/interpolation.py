"""Paths through latent space: between two latents, and through many, as a stream of small batches.

Between two: `lerp` is straight, for w, where distances mean something; `slerp` follows the great circle, for z, which a Gaussian
of many dimensions keeps near a sphere: a straight line would pass through lengths that the network never saw in training.

Through many: `along` goes from keyframe to keyframe, with a Catmull-Rom spline (its speed does not jump at a keyframe) or
with `slerp`, and yields its points in batches, so that a long video needs no more memory than a short one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from stylert.core.errors import InputError

Curve = Literal["smooth", "linear", "sphere"]

#: Keyframes are held in memory at once; the points between them are not.
MAX_KEYFRAMES = 4096


def lerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The point at `t` on the straight line from `a` (t = 0, exactly) to `b` (t = 1, exactly)."""
    return ((1 - t) * a.astype(np.float64) + t * b.astype(np.float64)).astype(a.dtype)


def slerp(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """The point at `t` on the great circle from `a` (t = 0, exactly) to `b` (t = 1, exactly), `[..., dim]` (Shoemake 1985).

    The direction turns at constant speed and the norm changes linearly, so equal norms are kept. Latents that point the same or
    the exact opposite way define no circle; between those the line is straight.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    length_x, length_y = np.linalg.norm(x, axis=-1, keepdims=True), np.linalg.norm(y, axis=-1, keepdims=True)
    length = (1 - t) * length_x + t * length_y
    with np.errstate(divide="ignore", invalid="ignore"):
        # The angle from both half-diagonals is exact where the arc cosine is not: near 0 and pi (Kahan).
        u, v = x / length_x, y / length_y
        angle = 2 * np.arctan2(np.linalg.norm(u - v, axis=-1, keepdims=True), np.linalg.norm(u + v, axis=-1, keepdims=True))
        whole = np.sin(angle)
        point = np.sin((1 - t) * angle) / whole * (length / length_x) * x + np.sin(t * angle) / whole * (length / length_y) * y
    return np.where(whole > 1e-7, point, (1 - t) * x + t * y).astype(a.dtype)


def catmull_rom(before: np.ndarray, a: np.ndarray, b: np.ndarray, after: np.ndarray, t: float) -> np.ndarray:
    """The point at `t` on the cubic from `a` (t = 0, exactly) to `b` (t = 1, exactly) whose tangents are those of the neighbours.

    Catmull and Rom 1974, uniform: the tangent at a point is half the way between the points beside it.
    """
    weights = (
        t * (-1 + t * (2 - t)) / 2,
        (2 + t * t * (3 * t - 5)) / 2,
        t * (1 + t * (4 - 3 * t)) / 2,
        t * t * (t - 1) / 2,
    )
    points = (before, a, b, after)
    return sum(w * p.astype(np.float64) for w, p in zip(weights, points, strict=True)).astype(a.dtype)  # type: ignore[union-attr]


def along(
    keyframes: np.ndarray, frames: int, loop: bool = False, curve: Curve = "smooth", batch: int = 8
) -> Iterator[np.ndarray]:
    """`frames` points on a path through `keyframes` `[K, ...]` in equal steps, yielded as `[<= batch, ...]` of the same type.

    An open path starts exactly at the first keyframe and ends exactly at the last. With `loop` the path goes on from the last to
    the first, and the point after the last one would be the first again, so that a video of it closes without a doubled frame.
    `curve`: "smooth" (Catmull-Rom), "linear" or "sphere" (`slerp` over the last axis).

    Raises InputError for fewer than two or too many keyframes, or fewer than two frames, before the first batch is asked for.
    """
    count = len(keyframes)
    if not 2 <= count <= MAX_KEYFRAMES:
        raise InputError(f"a path takes 2 to {MAX_KEYFRAMES} keyframes, not {count}")
    if frames < 2:
        raise InputError(f"a path has at least 2 frames, not {frames}")
    return _batches(keyframes, frames, loop, curve, batch)


def _batches(keyframes: np.ndarray, frames: int, loop: bool, curve: Curve, batch: int) -> Iterator[np.ndarray]:
    for first in range(0, frames, batch):
        yield np.stack([_point(keyframes, i, frames, loop, curve) for i in range(first, min(first + batch, frames))])


def _point(keyframes: np.ndarray, i: int, frames: int, loop: bool, curve: Curve) -> np.ndarray:
    """Point `i` of `frames`: in whole numbers, so that no keyframe is missed by a rounding error."""
    count = len(keyframes)
    segments, steps = (count, frames) if loop else (count - 1, frames - 1)
    k, rest = divmod(i * segments, steps)
    if k == segments:  # the end of an open path
        return keyframes[-1].copy()
    t, a, b = rest / steps, keyframes[k], keyframes[(k + 1) % count]
    if curve == "sphere":
        return slerp(a, b, t)
    if curve == "linear":
        return lerp(a, b, t)
    # An open path goes straight on beyond its ends: two keyframes are a straight line.
    before = keyframes[k - 1] if loop or k > 0 else 2 * a - b
    after = keyframes[(k + 2) % count] if loop or k + 2 < count else 2 * b - a
    return catmull_rom(before, a, b, after, t)
