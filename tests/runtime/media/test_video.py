"""A video has the given frames, rate, size and comment. It appears whole or not at all."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from stylert.core.errors import BackendError, InputError, OutputError
from stylert.runtime.media.image_metadata import read_comment
from stylert.runtime.media.video import SUFFIXES, write_video


def smooth_frames(count: int, side: int = 32, channels: int = 3, batch: int = 7) -> Iterator[np.ndarray]:
    """Batches of `count` smooth frames in all, each brighter than the one before it."""
    ramp = np.linspace(0, 100, side)[:, None, None] + np.linspace(0, 60, side)[None, :, None]
    for i in range(0, count, batch):
        levels = np.arange(i, min(i + batch, count)) * 80 / count
        yield np.stack([np.broadcast_to(ramp + level, (side, side, channels)) for level in levels]).astype(np.uint8)


def decoded(path: Path) -> tuple[np.ndarray, float]:
    """Frames `[N, H, W, 3]` and seconds of a video, from PyAV for MP4 and from Pillow for the others."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
            return np.stack(frames), float(len(frames) / container.streams.video[0].average_rate)
    frames, milliseconds = [], 0.0
    with Image.open(path, formats=("WEBP", "GIF")) as image:
        for i in range(image.n_frames):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
            milliseconds += image.info["duration"]
    return np.stack(frames), milliseconds / 1000


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("count", "fps", "side", "channels"), [(23, 30, 32, 3), (2, 1, 4, 1), (60, 24, 16, 3), (9, 50, 64, 1)])
def test_a_video_decodes_to_its_frames_rate_size_and_comment(
    tmp_path: Path, suffix: str, count: int, fps: int, side: int, channels: int
) -> None:
    path = tmp_path / f"v{suffix}"
    comment = '{"a": "<&>"}' * 50
    assert write_video(path, smooth_frames(count, side, channels), fps, comment) == count
    frames, seconds = decoded(path)
    assert frames.shape == (count, side, side, 3)
    assert seconds == pytest.approx(count / fps, abs=0.011)
    expected = np.concatenate(list(smooth_frames(count, side, channels)))
    assert np.abs(frames.astype(float) - expected).mean() < 4
    assert read_comment(path) == comment
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / f"{name}{suffix}", smooth_frames(20), 30, "c")
    if suffix == ".mp4":  # the encoder does not repeat its bytes, but its pictures agree
        a, b = (decoded(tmp_path / f"{name}.mp4")[0].astype(int) for name in ("a", "b"))
        assert a.shape == b.shape
        assert np.abs(a - b).mean() < 1
    else:
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_memory_does_not_grow_with_the_length(tmp_path: Path, suffix: str) -> None:
    write_video(tmp_path / f"warm{suffix}", smooth_frames(3), 30, "c")
    peaks = []
    for count in (30, 300):
        tracemalloc.start()
        write_video(tmp_path / f"v{suffix}", smooth_frames(count), 30, "c")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 50_000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failure_among_the_frames_leaves_the_old_file_and_no_other(tmp_path: Path, suffix: str) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield next(smooth_frames(7))
        raise KeyboardInterrupt

    path = tmp_path / f"v{suffix}"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_video(path, failing(), 30, "c")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_invalid_suffixes_rates_and_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder.gif").mkdir()
    (tmp_path / "file").write_text("x")
    for name, fps, kind in [
        ("v.avi", 30, InputError),
        ("v", 30, InputError),
        ("v.mp4", 0, InputError),
        ("v.webp", 101, InputError),
        ("v.gif", 51, InputError),
        ("folder.gif", 30, OutputError),
        ("file/v.webp", 30, OutputError),
        ("/proc/nowhere/v.mp4", 30, OutputError),
    ]:
        with pytest.raises(kind) as e:
            write_video(tmp_path / name, smooth_frames(3), fps, "c")
        assert "\n" not in str(e.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.gif"]


def test_only_mp4_needs_pyav_and_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    write_video(tmp_path / "v.webp", smooth_frames(3), 30, "c")
    with pytest.raises(BackendError, match=r"pip install 'stylert\[video\]'"):
        write_video(tmp_path / "v.mp4", smooth_frames(3), 30, "c")
