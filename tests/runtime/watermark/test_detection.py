"""Detection: bits, views and verdicts, and detector files that are damaged or hostile."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from scipy import stats

from stylert.core.errors import InputError, OutputError, PictureError
from stylert.runtime.watermark.decoder_graph import BOUND, decoder_model
from stylert.runtime.watermark.detection import Detector
from stylert.runtime.watermark.detector_file import (
    FILTER_VERSION,
    METADATA_KEY,
    DetectorFacts,
    DetectorFile,
    View,
    check_detector_output,
    new_detector,
    read_detector,
    write_detector,
)
from tests.runtime.watermark.detectors import VIEWS, random_detector, random_weights


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


def with_facts(model: Any, **changes: Any) -> None:
    entry = next(e for e in model.metadata_props if e.key == METADATA_KEY)
    entry.value = json.dumps({**json.loads(entry.value), **changes})


def weight(model: Any, name: str = "patterns") -> Any:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def rename(model: Any) -> None:
    weight(model).name = "other"


def reshape(model: Any, name: str = "patterns") -> None:
    weight(model, name).dims[0] += 1


def broken_chain(model: Any) -> None:
    """A layer of the network with more inputs than the one before has outputs."""
    name = "residual.1.weight"
    weight(model, name).CopyFrom(onnx.numpy_helper.from_array(np.zeros((4, 5, 3, 3), np.float32), name))


def wide_network(model: Any) -> None:
    """A layer that would take much memory for each pixel."""
    for name, shape in {
        "residual.0.weight": (65, 3, 3, 3),
        "residual.0.bias": (65,),
        "residual.1.weight": (4, 65, 3, 3),
    }.items():
        weight(model, name).CopyFrom(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name))


def huge(model: Any) -> None:
    weight(model).dims[0] = 2**40


def elsewhere(model: Any) -> None:
    weight(model).data_location = onnx.TensorProto.EXTERNAL
    weight(model).external_data.add(key="location", value="/etc/passwd")


def not_finite(model: Any, name: str = "bias") -> None:
    shape = tuple(weight(model, name).dims)
    weight(model, name).CopyFrom(onnx.numpy_helper.from_array(np.full(shape, np.nan, np.float32), name))


def views_of(length: int) -> list[dict[str, Any]]:
    """As many views as the detector has, the first of this length."""
    views = [{"length": view.length, "mirrored": view.mirrored} for view in VIEWS]
    return [{"length": length, "mirrored": False}, *views[1:]]


HOSTILE: dict[str, Callable[[Any], None]] = {
    "no metadata": lambda model: model.metadata_props.clear(),
    "two keys": lambda model: model.metadata_props.add(key=METADATA_KEY, value="{}"),
    "no JSON": lambda model: setattr(model.metadata_props[0], "value", "{"),
    "another version": lambda model: with_facts(model, version=1),
    "a short key": lambda model: with_facts(model, key="0101"),
    "a key of letters": lambda model: with_facts(model, key="ab" * 16),
    "no views": lambda model: with_facts(model, views=[]),
    "many views": lambda model: with_facts(model, views=[{"length": 32, "mirrored": False}] * 1000),
    "a view of nothing": lambda model: with_facts(model, views=views_of(0)),
    "a view beyond the patterns": lambda model: with_facts(model, views=views_of(33)),
    "a view twice": lambda model: with_facts(model, views=[{"length": 32, "mirrored": False}] * 4),
    "a view of a small crop": lambda model: with_facts(model, views=views_of(16)),
    "a megabyte of text": lambda model: model.metadata_props.add(key="more", value="x" * 2**20),
    "many nodes": lambda model: [model.graph.node.add() for _ in range(1001)],
    "a view without weights": lambda model: with_facts(model, views=[*views_of(31), {"length": 30, "mirrored": True}]),
    "matrices of other views": lambda model: reshape(model, "view_matrices"),
    "means that are not finite": lambda model: not_finite(model, "view_means"),
    "a weight of another name": rename,
    "a weight of another shape": reshape,
    "a resolution out of range": lambda model: with_facts(model, resolution=-1),
    "layers that do not fit each other": broken_chain,
    "a wide network": wide_network,
    "a huge weight": huge,
    "a weight in another file": elsewhere,
    "a weight that is not finite": not_finite,
    "no weights": lambda model: model.graph.ClearField("initializer"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_detector_is_one_line(detector: Path, name: str) -> None:
    model = onnx.load(detector, load_external_data=False)
    HOSTILE[name](model)
    detector.write_bytes(model.SerializeToString())
    with pytest.raises(InputError) as e:
        read_detector(detector)
    assert str(e.value).startswith(f"detector {detector}")
    assert str(e.value).isprintable()


def test_a_detector_of_the_first_format_is_named_as_such(detector: Path) -> None:
    """Its views had a spread in place of a mirror image and a matrix."""
    model = onnx.load(detector)
    with_facts(model, version=1, views=[{"length": 32, "spread": 0.5}])
    detector.write_bytes(model.SerializeToString())
    with pytest.raises(
        InputError, match="format version 1, and this stylert reads 2 and 3: read it with the stylert that wrote it"
    ):
        read_detector(detector)


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


@pytest.mark.parametrize(("version", "other"), [(2, 3), (3, 2)])
def test_weights_of_another_format_than_the_document_says_are_refused(tmp_path: Path, version: int, other: int) -> None:
    file = random_detector(tmp_path / "d.onnx", np.random.default_rng(0), version=version)
    model = onnx.load(file)
    with_facts(model, version=other)
    file.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="are not those of its format version"):
        read_detector(file)


def field(number: int, content: bytes) -> bytes:
    """A field of protobuf with a length."""
    length, parts = len(content), bytearray([number << 3 | 2])
    while length > 0x7F:
        parts.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes(parts) + bytes([length]) + content


EMPTY_NODES, EMPTY_WEIGHTS, EMPTY_TEXTS = (field(number, b"") * 2**21 for number in (1, 5, 14))
ATTRIBUTES = field(1, field(5, b"") * 2**21)


@pytest.mark.parametrize("content", [field(7, EMPTY_NODES), field(7, EMPTY_WEIGHTS), EMPTY_TEXTS, field(7, ATTRIBUTES)])
def test_a_file_of_empty_messages_is_refused_before_it_is_parsed(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message takes two bytes in the file, and a hundred in memory."""
    (tmp_path / "d.onnx").write_bytes(content)
    monkeypatch.setattr(onnx, "load_model_from_string", lambda _: pytest.fail("it was parsed"))
    with pytest.raises(InputError, match=r"is no ONNX file: it (has too many parts|holds more than weights)"):
        read_detector(tmp_path / "d.onnx")


def test_an_empty_detector_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "d.onnx").touch()
    with pytest.raises(InputError, match=r"d\.onnx is empty$"):
        read_detector(tmp_path / "d.onnx")


@pytest.mark.parametrize("content", [b"text", b"\x08\x08", bytes(range(256)) * 9])
def test_a_file_of_another_kind_is_no_detector(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.onnx").write_bytes(content)
    with pytest.raises(InputError, match="detector"):
        read_detector(tmp_path / "d.onnx")


def test_every_cut_of_a_detector_is_refused_or_whole(detector: Path) -> None:
    data = detector.read_bytes()
    for length in range(0, len(data), max(len(data) // 50, 1)):
        detector.write_bytes(data[:length])
        with pytest.raises(InputError):
            read_detector(detector)


def test_nodes_of_the_file_never_run(detector: Path, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    expected = Detector.load(detector).detect(image)
    model = onnx.load(detector)
    model.graph.node[0].op_type = "NoSuchOperator"
    weight(model, "border").CopyFrom(onnx.numpy_helper.from_array(np.full(8, 2**40), "border"))
    detector.write_bytes(model.SerializeToString())
    assert Detector.load(detector).detect(image) == expected


def test_the_file_is_an_ordinary_onnx_network(detector: Path) -> None:
    onnx.checker.check_model(str(detector), full_check=True)


def test_a_detector_replaces_only_a_detector_and_only_if_asked(detector: Path, tmp_path: Path) -> None:
    check_detector_output(detector, (), replace=True)
    check_detector_output(tmp_path / "new.onnx", ())
    with pytest.raises(OutputError, match="the only copy of its key is there"):
        check_detector_output(detector, ())
    with pytest.raises(OutputError, match="is an input"):
        check_detector_output(detector, (detector,))
    other = tmp_path / "network.onnx"
    other.write_bytes(decoder_model(random_weights(np.random.default_rng(0)), {}).SerializeToString())
    with pytest.raises(OutputError, match="did not write the file there as a detector"):
        check_detector_output(other, ())


def test_a_former_key_stays_until_the_new_network_is_written(detector: Path, rng: np.random.Generator) -> None:
    before, new = detector.read_bytes(), read_detector(detector)
    with pytest.raises(OutputError, match="full"), new_detector(detector, new.arrays, replaced_key(new), replace=True):
        assert detector.read_bytes() == before
        raise OutputError("the disk is full")
    assert detector.read_bytes() == before
    with (
        pytest.raises(OutputError, match="the only copy"),
        new_detector(detector, new.arrays, replaced_key(new), replace=False),
    ):
        pytest.fail("a detector that came during the training is replaced")  # pragma: no cover
    with new_detector(detector, new.arrays, replaced_key(new), replace=True):
        pass
    assert read_detector(detector).facts.key == replaced_key(new).key


def replaced_key(content: DetectorFile) -> DetectorFacts:
    return replace(content.facts, key=content.facts.key.translate(str.maketrans("01", "10")))


def test_a_key_that_does_not_fit_is_not_written(tmp_path: Path, rng: np.random.Generator, detector: Path) -> None:
    with pytest.raises(ValueError, match="another number of bits"):
        write_detector(tmp_path / "x.onnx", random_weights(rng, 8), read_detector(detector).facts)
    assert not (tmp_path / "x.onnx").exists()
