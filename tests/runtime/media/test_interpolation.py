"""Paths pass their keyframes exactly, have the promised speed and norm between them, and need no memory for their length."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.core.errors import InputError
from stylert.runtime.media.interpolation import MAX_KEYFRAMES, Curve, catmull_rom, keyframe_path, lerp, slerp

seeds = st.integers(0, 2**32 - 1)
fractions = st.floats(0, 1)
#: Without a deadline, because the machine may be busy
calm = settings(deadline=None, max_examples=40)
curves = st.sampled_from(["smooth", "linear", "sphere"])


def random_latents(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole_path(*args: object, **kwargs: object) -> np.ndarray:
    """All points of a path in one array."""
    return np.concatenate(list(keyframe_path(*args, **kwargs)))  # type: ignore[arg-type]


@calm
@given(seeds, st.integers(1, 64))
def test_ends_are_exact(seed: int, dim: int) -> None:
    before, a, b, after = random_latents(seed, 4, 3, dim)
    for between in (lerp, slerp, lambda a, b, t: catmull_rom(before, a, b, after, t)):
        np.testing.assert_array_equal(between(a, b, 0.0), a)
        np.testing.assert_array_equal(between(a, b, 1.0), b)
        assert between(a, b, 0.5).dtype == np.float32


@calm
@given(seeds, st.integers(2, 64), st.floats(0.1, 10), fractions)
def test_slerp_keeps_equal_norms_and_divides_the_angle(seed: int, dim: int, norm: float, t: float) -> None:
    a, b = (norm * v / np.linalg.norm(v) for v in random_latents(seed, 2, dim).astype(np.float64))
    point = slerp(a, b, t)
    np.testing.assert_allclose(np.linalg.norm(point), norm, rtol=1e-6)
    angle = np.arccos(np.clip(a @ b / norm**2, -1, 1))
    np.testing.assert_allclose(np.arccos(np.clip(a @ point / norm**2, -1, 1)), t * angle, atol=1e-5)


@calm
@given(seeds, fractions)
def test_slerp_is_finite_between_parallel_opposite_and_zero_latents(seed: int, t: float) -> None:
    a = random_latents(seed, 5)
    for b in (a, -a, 2 * a, 0 * a, a * (1 + 1e-7)):
        assert np.isfinite(slerp(a, b, t)).all()
    np.testing.assert_allclose(slerp(a, a, t), a, rtol=1e-6)
    np.testing.assert_array_equal(slerp(a.tolist(), b.tolist(), t), slerp(a.astype(float), b.astype(float), t))


@calm
@given(seeds, st.integers(2, 6), st.integers(1, 12), st.booleans(), curves, st.integers(1, 20))
def test_a_path_passes_every_keyframe_exactly(seed: int, count: int, steps: int, loop: bool, curve: str, batch: int) -> None:
    keys = random_latents(seed, count, 2, 7)
    points = whole_path(keys, count * steps if loop else (count - 1) * steps + 1, loop, curve, batch)
    np.testing.assert_array_equal(points[::steps], keys)


@calm
@given(seeds, st.integers(2, 6), st.integers(2, 50), st.booleans(), curves, st.integers(1, 60))
def test_a_path_has_the_given_number_of_points_and_the_batch_changes_none(
    seed: int, count: int, frames: int, loop: bool, curve: str, batch: int
) -> None:
    keys = random_latents(seed, count, 5)
    batches = list(keyframe_path(keys, frames, loop, curve, batch))  # type: ignore[arg-type]
    assert max(map(len, batches)) <= batch
    points = np.concatenate(batches)
    assert (points.shape, points.dtype) == ((frames, 5), np.float32)
    np.testing.assert_array_equal(points, whole_path(keys, frames, loop, curve, 1))


@calm
@given(seeds, st.integers(2, 5), st.sampled_from(["smooth", "sphere"]))
def test_a_loop_closes_with_a_step_no_longer_than_the_others_and_an_open_path_ends_at_its_last_keyframe(
    seed: int, count: int, curve: str
) -> None:
    keys = random_latents(seed, count, 16)
    points = whole_path(keys, 80, True, curve)
    steps = np.linalg.norm(np.diff(points, axis=0, append=points[:1]), axis=1)
    assert steps[-1] <= steps.max() * (1 + 1e-6)
    np.testing.assert_array_equal(whole_path(keys, 17, False, curve)[[0, -1]], keys[[0, -1]])


@calm
@given(seeds, st.integers(3, 6), st.booleans())
def test_speed_does_not_jump_on_a_smooth_path(seed: int, count: int, loop: bool) -> None:
    keys = random_latents(seed, count, 8).astype(np.float64)
    speed = np.diff(whole_path(keys, 300, loop), axis=0)
    assert np.abs(np.diff(speed, axis=0)).max() < 0.15 * np.abs(speed).max()


@calm
@given(seeds, st.integers(2, 30))
def test_two_keyframes_make_a_straight_line_at_constant_speed(seed: int, frames: int) -> None:
    a, b = random_latents(seed, 2, 9).astype(np.float64)
    expected = a + np.linspace(0, 1, frames)[:, None] * (b - a)
    np.testing.assert_allclose(whole_path(np.stack([a, b]), frames), expected, atol=1e-12)


def test_memory_does_not_grow_with_the_length() -> None:
    keys, peaks = random_latents(0, 4, 8, 64), []
    for frames in (50, 2000):
        tracemalloc.start()
        assert sum(len(b) for b in keyframe_path(keys, frames)) == frames
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 20_000


@pytest.mark.parametrize(("count", "frames"), [(0, 10), (1, 10), (MAX_KEYFRAMES + 1, 10), (2, 1), (2, 0), (2, -5)])
def test_paths_with_too_few_keyframes_or_frames_are_refused_before_they_begin(count: int, frames: int) -> None:
    with pytest.raises(InputError):
        keyframe_path(np.zeros((count, 3), np.float32), frames)


@pytest.mark.parametrize("curve", ["smooth", "linear", "sphere"])
@pytest.mark.filterwarnings("error")
def test_keyframes_beyond_float32_warn_of_nothing(curve: Curve) -> None:
    keyframes = np.array([[3e38, -3e38], [-3e38, 3e38], [3e38, np.inf]], np.float32)
    assert len(np.concatenate(list(keyframe_path(keyframes, 20, curve=curve)))) == 20
