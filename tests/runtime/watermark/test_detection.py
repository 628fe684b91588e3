"""Detection: bits, views and verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from stylert.core.errors import InputError, PictureError
from stylert.runtime.watermark.decoder_graph import BOUND
from stylert.runtime.watermark.detection import Detector
from stylert.runtime.watermark.detector_file import (
    FILTER_VERSION,
    View,
    read_detector,
    write_detector,
)
from tests.runtime.watermark.detectors import VIEWS, random_detector


@pytest.fixture
def detector(tmp_path: Path, rng: np.random.Generator) -> Path:
    return random_detector(tmp_path / "detector.onnx", rng)


def test_the_bits_that_are_read_are_the_signs_of_the_outputs(detector: Path, rng: np.random.Generator) -> None:
    import onnxruntime

    content = read_detector(detector)
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    session = onnxruntime.InferenceSession(str(detector))
    x = (image.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    bits = "".join(
        str(int(value > 0)) for value in session.run(None, {"image": x, "margins": np.zeros(8, np.int64)})[0][0, :, 0, 0]
    )
    whole = random_detector(detector.with_name("whole.onnx"), rng, views=(View(32, False),))
    views = {name: content.arrays[name][:1] for name in ("view_matrices", "view_means")}
    write_detector(whole, {**content.arrays, **views}, read_detector(whole).facts)
    finding = Detector.load(whole).detect(image)
    assert finding.matched == sum(a == b for a, b in zip(bits, read_detector(whole).facts.key, strict=True))
    assert finding.share == 1


def test_the_matches_of_unmarked_images_are_binomial_over_keys(tmp_path: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (40, 36, 3), np.uint8)
    file = random_detector(tmp_path / "d.onnx", rng)
    content, matches = read_detector(file), []
    for _ in range(300):
        key = "".join(map(str, rng.integers(0, 2, 32)))
        object.__setattr__(content.facts, "key", key)
        matches.append(Detector(content, threads=1).detect(image).matched)
    assert np.mean(matches) == pytest.approx(16, abs=0.7)
    assert np.var(matches) == pytest.approx(8, rel=0.35)
    counts = np.bincount(matches, minlength=33)[10:23]
    expected = stats.binom.pmf(np.arange(10, 23), 32, 0.5) * 300
    assert np.abs(counts - expected).max() < 25


def test_the_view_with_the_clearest_bits_counts_whatever_the_key_is(detector: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    first = Detector.load(detector).detect(image)
    content = read_detector(detector)
    flipped = "".join("10"[int(bit)] for bit in content.facts.key)
    object.__setattr__(content.facts, "key", flipped)
    second = Detector(content).detect(image)
    assert second.share == first.share
    assert first.matched + second.matched == 32
    for i, view in enumerate(content.facts.views):
        scales = np.full((len(VIEWS), 1, 1), 1e-5, np.float32)
        scales[i] = 1
        arrays = {**content.arrays, "view_matrices": content.arrays["view_matrices"] * scales}
        finding = Detector(replace(content, arrays=arrays)).detect(image)
        assert (finding.share, finding.mirrored) == (view.length / 32, view.mirrored)


@pytest.mark.parametrize("scale", [100.0, 1e-4])
def test_other_views_are_read_only_if_those_of_the_resolution_are_not_clear(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    views = tuple(View(length, side) for length in (32, 26, 22) for side in (False, True))
    content = read_detector(random_detector(tmp_path / "d.onnx", rng, views=views, resolution=64))
    arrays = {**content.arrays, "view_matrices": content.arrays["view_matrices"] * np.float32(scale)}
    content, read = replace(content, arrays=arrays), []
    unknown = Detector(replace(content, facts=replace(content.facts, resolution=0)))
    whole = rng.integers(0, 256, (64, 64, 3), np.uint8)
    part = whole[5:57, 2:54]
    expected = [unknown.detect(image) for image in (whole, part)]
    reader, read_view = Detector(content), Detector._read
    monkeypatch.setattr(
        Detector, "_read", lambda self, picture, view: read.append(view.length) or read_view(self, picture, view)
    )
    for image, likely in ((whole, {32}), (part, {32, 26})):
        read.clear()
        finding = reader.detect(image)
        is_clear = scale > 1
        assert set(read) == (likely if is_clear else {32, 26, 22})
        assert len(read) == 2 * len(set(read))
        if not is_clear:
            assert finding == expected.pop(0)
        else:
            assert finding.share * 32 in likely


def test_a_view_is_whitened_before_it_competes_and_the_bits_are_those_of_the_decoder(
    detector: Path, rng: np.random.Generator
) -> None:
    """Unmarked images have large common outputs at the second view: alone, its size would win."""
    content, image = read_detector(detector), rng.integers(0, 256, (32, 32, 3), np.uint8)
    outputs = [Detector(content)._read(Image.fromarray(image), view) for view in VIEWS[:2]]
    common = np.where(rng.random(32) < 0.5, 40, -40).astype(np.float32)
    means = content.arrays["view_means"].copy()
    means[1] = outputs[1].mean(1) + common
    assert (
        Detector(replace(content, arrays={**content.arrays, "view_means": means})).detect(image).share == VIEWS[1].length / 32
    )
    biased = {**content.arrays, "bias": content.arrays["bias"] + common, "view_means": content.arrays["view_means"] + common}
    plain, moved = (Detector(replace(content, arrays=a)).detect(image) for a in (content.arrays, biased))
    assert (plain.share, plain.mirrored) == (moved.share, moved.mirrored)
    key = np.array([bit == "1" for bit in content.facts.key])
    assert moved.matched == ((common > 0) == key).sum()


def test_a_mirror_image_has_the_bits_of_the_image(tmp_path: Path, rng: np.random.Generator) -> None:
    reader = Detector.load(random_detector(tmp_path / "d.onnx", rng))
    pixels = rng.integers(0, 256, (32, 27, 3), np.uint8)
    picture, mirror = reader.detect(pixels), reader.detect(pixels[:, ::-1])
    assert (picture.matched, picture.share) == (mirror.matched, mirror.share)
    assert picture.mirrored is not mirror.mirrored


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_pictures_of_every_mode_and_size_are_read(detector: Path, tmp_path: Path, rng: np.random.Generator, mode: str) -> None:
    reader = Detector.load(detector)
    for size in ((1, 1), (40, 300), (64, 48), (500, 300)):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
        finding = reader.detect_file(tmp_path / "a.png")
        assert 0 <= finding.matched <= finding.bits == 32
        if mode == "RGB":
            assert finding == reader.detect(pixels)


def test_the_verdict_follows_from_the_rate(detector: Path, rng: np.random.Generator) -> None:
    finding = Detector.load(detector).detect(np.zeros((32, 32, 3), np.uint8))
    rate = finding.false_positive_rate
    assert finding.is_marked(rate)
    assert not finding.is_marked(rate * 0.999)


@pytest.mark.parametrize("image", [None, "a", np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_other_arguments_are_refused(detector: Path, image: Any) -> None:
    with pytest.raises(InputError, match="a mark is read from"):
        Detector.load(detector).detect(image)


def test_pictures_that_pillow_cannot_read_and_thin_ones_are_refused(detector: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    closed = Image.new("RGB", (5, 5))
    closed.close()
    thin = Image.new("RGB", (900, 100))
    for picture in (Image.open(tmp_path / "cut.png", formats=["PNG"]), closed, thin, Image.new("RGB", (0, 0))):
        with pytest.raises(InputError):
            Detector.load(detector).detect(picture)
    thin.save(tmp_path / "thin.png")
    with pytest.raises(PictureError, match=r"thin\.png: a mark is read from pictures up to 8 times"):
        Detector.load(detector).detect_file(tmp_path / "thin.png")
    for threads in (0, float("nan"), 10**9):
        with pytest.raises(InputError, match="threads"):
            Detector.load(detector, threads)  # type: ignore[arg-type]


def test_a_picture_that_is_none_is_named(detector: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(PictureError, match=r"a\.png"):
        Detector.load(detector).detect_file(tmp_path / "a.png")
    with pytest.raises(PictureError, match="does not exist"):
        Detector.load(detector).detect_file(tmp_path / "b.png")


def test_a_detector_of_the_second_format_is_read_by_its_filter(tmp_path: Path, rng: np.random.Generator) -> None:
    """Its outputs are the bounded differences from a filter, correlated with the patterns."""
    old = random_detector(tmp_path / "old.onnx", rng, version=FILTER_VERSION, views=(View(32, False),))
    arrays, facts = read_detector(old).arrays, read_detector(old).facts
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    x = np.pad(image / 127.5 - 1, ((6, 6), (6, 6), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(x, (13, 13), (0, 1))
    residual = np.tanh(np.einsum("hwcij,cij->hw", windows, arrays["difference"][0]) / BOUND)
    outputs = np.einsum("bhw,hw->b", arrays["patterns"], residual) + arrays["bias"]
    read = Detector.load(old)._read(Image.fromarray(image), View(32, False))
    assert np.allclose(read[:, 0], outputs, atol=1e-3)
    assert Detector.load(old).detect(image).matched == sum((outputs > 0) == [bit == "1" for bit in facts.key])
