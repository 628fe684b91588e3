"""Detector files: damaged and hostile ones, earlier formats, and former keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from stylert.core.errors import InputError, OutputError
from stylert.runtime.watermark.decoder_graph import decoder_model
from stylert.runtime.watermark.detection import Detector
from stylert.runtime.watermark.detector_file import (
    METADATA_KEY,
    DetectorFacts,
    DetectorFile,
    check_detector_output,
    new_detector,
    read_detector,
    write_detector,
)
from tests.runtime.watermark.detectors import VIEWS, random_detector, random_weights


@pytest.fixture
def detector(tmp_path: Path, rng: np.random.Generator) -> Path:
    return random_detector(tmp_path / "detector.onnx", rng)


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
