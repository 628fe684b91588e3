"""Directions come back as they were written, and damaged files or other files are refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stylert.core.errors import BundleError, InputError, OutputError
from stylert.core.files.digests import sha256_of
from stylert.core.files.outputs import check_output
from stylert.runtime.bundle import Bundle
from stylert.runtime.steering.directions_file import METADATA_KEY, Direction, Directions, read_directions, write_directions
from tests.runtime.steering.random_directions import random_directions


def test_directions_come_back_as_they_were_written(tmp_path: Path, rng: np.random.Generator) -> None:
    written = random_directions(rng)
    write_directions(tmp_path / "d.safetensors", written)
    read = read_directions(tmp_path / "d.safetensors")
    assert list(read.by_name) == list(written.by_name)
    for name, direction in written.by_name.items():
        np.testing.assert_array_equal(read[name].vector, direction.vector)
        assert replace(read[name], vector=direction.vector) == direction
    assert (read.network, read.num_ws, read.w_dim, read.style_channels) == ("ab" * 32, 6, 20, 40)
    assert read.sha256 == sha256_of(tmp_path / "d.safetensors")
    write_directions(tmp_path / "again.safetensors", read)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "d.safetensors").read_bytes()


def test_every_changed_byte_is_found_or_changes_nothing(tmp_path: Path, rng: np.random.Generator) -> None:
    path, written = tmp_path / "d.safetensors", random_directions(rng)
    write_directions(path, written)
    whole = path.read_bytes()
    for place in rng.integers(len(whole), size=300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.integers(8))]) + whole[place + 1 :])
        try:
            read = read_directions(path)
        except InputError as e:
            assert "\n" not in str(e)
            continue
        for direction, was in zip(read.by_name.values(), written.by_name.values(), strict=True):
            np.testing.assert_array_equal(direction.vector, was.vector)
    for length in (0, 5, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_directions(path)


def test_other_files_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "text").write_text("hello, this is no such file")
    for path in (tmp_path, tmp_path / "none", tmp_path / "text", checkpoint, Path("/dev/zero")):
        with pytest.raises(InputError) as e:
            read_directions(path)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"version": 1', '"version": 2'),
        ('"space": "w"', '"space": "z"'),
        ('"latents": [0, 1]', '"latents": [0, 6]'),
        ('"latents": [0, 1]', '"latents": []'),
        ('"name": "pose.1"', '"name": "smile"'),
        ('"name": "pose.1"', '"name": "pose=1"'),
        ('"name": "pose.1"', '"name": "poses"'),
        ('"w_dim": 20', '"w_dim": 21'),
        ("abababab", "ABABABAB"),
        ('"style_channels": 40', '"style_channels": -3'),
        ('"style_channels": 40', '"style_channels": 1000000000000'),
        ('"num_ws": 6', '"num_ws": 1000000000000000'),
    ],
)
def test_metadata_that_does_not_fit_the_vectors_is_refused(
    old: str, new: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    from safetensors import safe_open

    path = tmp_path / "d.safetensors"
    write_directions(path, random_directions(rng))
    with safe_open(path, "numpy") as file:
        text = file.metadata()[METADATA_KEY]
    assert old in text
    save_file(load_file(path), path, {METADATA_KEY: text.replace(old, new)})
    with pytest.raises(InputError):
        read_directions(path)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "I32", "F8_E4M3", "F8_E5M2"])
def test_vectors_of_other_types_are_refused_also_where_numpy_lacks_them(
    dtype: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "d.safetensors"
    write_directions(path, random_directions(rng))
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    size = {"BF16": 2, "F16": 2, "I32": 4}.get(dtype, 1)
    tensor = header["smile"]
    tensor["dtype"], tensor["shape"] = dtype, [(tensor["data_offsets"][1] - tensor["data_offsets"][0]) // size]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    with pytest.raises(InputError, match=f"smile'? is {dtype}, not F32"):
        read_directions(path)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"a=b": Direction("w", np.ones(20, np.float32), (0,))},
        {"x" * 41: Direction("w", np.ones(20, np.float32), (0,))},
        {"a": Direction("w", np.ones(19, np.float32), (0,))},
        {"a": Direction("w", np.ones(20, np.float32), ())},
        {"a": Direction("w", np.full(20, np.nan, np.float32), (0,))},
        {"a": Direction("styles", np.ones(20, np.float32))},
        {"a": Direction("w", np.ones(20, np.float32), (0,), facts={"share": float("nan")})},
        {"a": Direction("w", np.ones(20, np.float32), (0,), facts={"share": np.float32("inf")})},
        {"a": Direction("w", np.ones(20, np.float32), (0,), facts={"share": "much"})},  # type: ignore[dict-item]
        {"a": Direction("w", np.ones(20, np.float32), (0,), facts=None)},  # type: ignore[arg-type]
        {"a": Direction("w", np.ones(20, np.float32), (0.5,))},  # type: ignore[arg-type]
        {"a": Direction("w", np.ones(20, np.float32), (True,))},
        {"a": Direction("w", np.ones(20, np.float32), None)},  # type: ignore[arg-type]
        {"a": Direction("z", np.ones(20, np.float32), (0,))},  # type: ignore[arg-type]
        {"a": Direction("w", np.ones(20, np.float32), (0,), method=None)},  # type: ignore[arg-type]
        {"a": Direction("w", np.full(20, 1e39), (0,))},
        {"a": Direction("w", None, (0,))},  # type: ignore[arg-type]
        {"a": None},
        {3: Direction("w", np.ones(20, np.float32), (0,))},
        {"": Direction("w", np.ones(20, np.float32), (0,))},
        None,
    ],
)
def test_directions_that_could_not_be_read_are_not_written(changed: dict[str, Direction], tmp_path: Path) -> None:
    with pytest.raises(InputError) as e:
        write_directions(tmp_path / "d.safetensors", Directions("ab" * 32, 6, 20, 40, changed))
    assert "\n" not in str(e.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [None, 3, {}, "d"])
def test_other_things_than_directions_are_refused(wrong: Directions, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no Directions"):
        write_directions(tmp_path / "d.safetensors", wrong)


def test_numbers_of_numpy_are_written_as_the_same_numbers(tmp_path: Path) -> None:
    vector = np.linspace(-1, 1, 20)
    facts = {"share": np.float32(0.5), "images": np.int64(80), "mean": np.float64(0.25)}
    numpy_direction = Direction("w", vector, (np.int64(0), np.uint8(3)), "scores", facts)  # type: ignore[arg-type]
    python_direction = Direction("w", vector.astype(np.float32), (0, 3), "scores", {"share": 0.5, "images": 80, "mean": 0.25})
    sizes = [np.int64(6), np.int32(20), np.uint16(40)]
    write_directions(tmp_path / "a.safetensors", Directions("ab" * 32, *sizes, {"a": numpy_direction}))  # type: ignore[arg-type]
    write_directions(tmp_path / "b.safetensors", Directions("ab" * 32, 6, 20, 40, {"a": python_direction}))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert read_directions(tmp_path / "a.safetensors")["a"].latents == (0, 3)


def test_directions_belong_to_the_network_that_the_bundle_names(bundle: Bundle, rng: np.random.Generator) -> None:
    own = bundle.provenance["checkpoint_sha256"]
    random_directions(rng, own).check_network(bundle)
    for other in (random_directions(rng), replace(random_directions(rng, own), w_dim=21)):
        with pytest.raises(BundleError, match="belong to the network"):
            other.check_network(bundle)
    with pytest.raises(BundleError, match="belong to the network"):
        random_directions(rng, own).check_network(replace(bundle, provenance={}))


def test_a_command_replaces_its_own_files_alone(tmp_path: Path, checkpoint: Path, rng: np.random.Generator) -> None:
    write_directions(tmp_path / "d.safetensors", random_directions(rng))
    check_output(tmp_path / "d.safetensors", "directions")
    for kind, path in (("directions", checkpoint), ("safetensors", tmp_path / "d.safetensors")):
        with pytest.raises(OutputError, match="did not write"):
            check_output(path, kind)
