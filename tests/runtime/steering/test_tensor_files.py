"""Damaged files of directions and of latents, and other files in their place, are refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from stylert.core.errors import InputError
from stylert.runtime.steering.directions_file import read_directions, write_directions
from stylert.runtime.steering.latents_file import read_latents, write_latents
from stylert.runtime.steering.tensor_files import METADATA_KEY
from tests.runtime.steering.random_files import random_directions, random_latents


class Kind(NamedTuple):
    write: Callable[[Path, np.random.Generator], None]
    read: Callable[[Path], Any]
    tensor: str


KINDS = {
    "directions": Kind(lambda path, rng: write_directions(path, random_directions(rng)), read_directions, "smile"),
    "latents": Kind(lambda path, rng: write_latents(path, random_latents(rng)), read_latents, "ws"),
}
#: Fields of the documents, and what takes their place
CHANGES = {
    "directions": [
        ('"kind": "directions"', '"kind": "latents"'),
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
    "latents": [
        ('"kind": "latents"', '"kind": "directions"'),
        ('"version": 1', '"version": 2'),
        ('"cat.2"', '"me"'),
        ('"cat.2"', '"../me"'),
        ('"cat.2"', '""'),
        (', "cat.2"', ""),
        ('"w_dim": 20', '"w_dim": 21'),
        ("abababab", "ABABABAB"),
        ('"num_ws": 6', '"num_ws": -6'),
    ],
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def path(kind: Kind, tmp_path: Path, rng: np.random.Generator) -> Path:
    kind.write(tmp_path / "a.safetensors", rng)
    return tmp_path / "a.safetensors"


def refusal(kind: Kind, path: Path) -> str:
    with pytest.raises(InputError) as e:
        kind.read(path)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_every_changed_byte_is_found_or_changes_nothing(kind: Kind, path: Path, rng: np.random.Generator) -> None:
    whole, written = path.read_bytes(), load_file(path)
    for place in rng.integers(len(whole), size=300):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << rng.integers(8))]) + whole[place + 1 :])
        try:
            kind.read(path)
        except InputError as e:
            assert "\n" not in str(e)
            continue
        for name, tensor in load_file(path).items():
            np.testing.assert_array_equal(tensor, written[name])
    for length in (0, 5, 8, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        refusal(kind, path)


def test_other_files_are_refused(kind: Kind, tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "text").write_text("hello, this is no such file")
    for path in (tmp_path, tmp_path / "none", tmp_path / "text", checkpoint, Path("/dev/zero")):
        refusal(kind, path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_refused_by_its_name(kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    for other in KINDS.keys() - {kind}:
        KINDS[other].write(tmp_path / "other.safetensors", rng)
        assert f"holds no {kind}; `stylert " in refusal(KINDS[kind], tmp_path / "other.safetensors")


@pytest.mark.parametrize(("name", "old", "new"), [(name, *change) for name in KINDS for change in CHANGES[name]])
def test_metadata_that_does_not_fit_the_tensors_is_refused(
    name: str, old: str, new: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    kind, path = KINDS[name], tmp_path / "a.safetensors"
    kind.write(path, rng)
    with safe_open(path, "numpy") as file:
        text = file.metadata()[METADATA_KEY]
    assert old in text
    save_file(load_file(path), path, {METADATA_KEY: text.replace(old, new)})
    refusal(kind, path)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "I32", "F8_E4M3", "F8_E5M2"])
def test_tensors_of_other_types_are_refused_also_where_numpy_lacks_them(dtype: str, kind: Kind, path: Path) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    tensor = header[kind.tensor]
    begin, end = tensor["data_offsets"]
    tensor["dtype"], tensor["shape"] = dtype, [(end - begin) // {"BF16": 2, "F16": 2, "I32": 4}.get(dtype, 1)]
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    assert f" is {dtype}, not F32" in refusal(kind, path)
