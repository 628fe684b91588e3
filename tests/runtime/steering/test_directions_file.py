"""Directions come back as they were written, and no others are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stylert.core.errors import BundleError, InputError, OutputError
from stylert.core.files.digests import sha256_of
from stylert.core.files.outputs import check_output
from stylert.runtime.bundle import Bundle
from stylert.runtime.steering.directions_file import Direction, Directions, read_directions, write_directions
from tests.runtime.steering.random_files import random_directions


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
