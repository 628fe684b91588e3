"""An encoder comes back as it was written, and a damaged file or one of another kind is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import InputError, OutputError
from stylert.core.files.digests import sha256_of
from stylert.core.files.outputs import check_output
from stylert.runtime.steering.encoder_file import EncoderWeights, read_encoder, write_encoder
from stylert.runtime.steering.latents_file import write_latents
from tests.runtime.steering.random_files import random_latents


def random_encoder(rng: np.random.Generator) -> EncoderWeights:
    arrays = {f"layer{i}.weight": rng.standard_normal((3, i + 1)).astype(np.float32) for i in range(4)}
    curvature = {"values": rng.random(2).astype(np.float32)}
    return EncoderWeights("ab" * 32, 16, 3, 6, 20, arrays, curvature, {"steps": 3, "held_out": [{"psi": 1.0}]})


def test_an_encoder_comes_back_as_it_was_written(tmp_path: Path, rng: np.random.Generator) -> None:
    written = random_encoder(rng)
    write_encoder(tmp_path / "a.safetensors", written)
    read = read_encoder(tmp_path / "a.safetensors")
    assert read.arrays.keys() == written.arrays.keys()
    for name, array in read.arrays.items():
        np.testing.assert_array_equal(array, written.arrays[name])
    assert list(read.curvature) == ["values"]
    np.testing.assert_array_equal(read.curvature["values"], written.curvature["values"])
    assert replace(read, arrays={}, curvature={}, sha256="") == replace(written, arrays={}, curvature={})
    assert read.sha256 == sha256_of(tmp_path / "a.safetensors")
    write_encoder(tmp_path / "b.safetensors", read)
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "x"},
        {"resolution": 2},
        {"img_channels": 4},
        {"num_ws": 0},
        {"w_dim": 1.5},
        {"arrays": {}, "curvature": {}},
        {"arrays": {"a": np.full(2, np.nan)}},
        {"curvature": {"a": np.full(2, np.nan)}},
        {"arrays": {"a": np.full(2, 1e300)}},
        {"arrays": {"a" * 201: np.zeros(2)}},
        {"facts": {"a": object()}},
        {"facts": {"a": float("nan")}},
    ],
)
def test_no_file_is_written_that_cannot_be_read(changes: dict[str, Any], tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(InputError):
        write_encoder(tmp_path / "a.safetensors", replace(random_encoder(rng), **changes))
    assert not list(tmp_path.iterdir())


def test_every_flipped_byte_and_every_cut_is_noticed(tmp_path: Path, rng: np.random.Generator) -> None:
    write_encoder(tmp_path / "a.safetensors", random_encoder(rng))
    whole = (tmp_path / "a.safetensors").read_bytes()
    places = rng.choice(len(whole), 60, replace=False)
    facts = whole.index(b"facts")  # people read them; nothing is computed from them
    for place in (int(p) for p in places if not facts <= p < whole.index(b"}}", facts)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "b.safetensors").write_bytes(damaged)
        try:
            read = read_encoder(tmp_path / "b.safetensors")
        except InputError:
            continue
        # The hash of the network and the sizes have no digest. Those who use the encoder compare them with the checkpoint.
        assert {name: array.tobytes() for name, array in read.arrays.items()} == {
            name: array.tobytes() for name, array in read_encoder(tmp_path / "a.safetensors").arrays.items()
        }
    for length in rng.choice(len(whole), 20, replace=False):
        (tmp_path / "b.safetensors").write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_encoder(tmp_path / "b.safetensors")


def test_files_of_other_kinds_are_refused(tmp_path: Path, rng: np.random.Generator, checkpoint: Path) -> None:
    write_latents(tmp_path / "latents.safetensors", random_latents(rng))
    write_encoder(tmp_path / "encoder.safetensors", random_encoder(rng))
    for path in (tmp_path / "latents.safetensors", checkpoint):
        with pytest.raises(InputError, match="holds no encoder; `stylert encoder train` writes such files"):
            read_encoder(path)
        with pytest.raises(OutputError, match="stylert did not write the file there as encoder"):
            check_output(path, "encoder")
    check_output(tmp_path / "encoder.safetensors", "encoder")


def test_another_checkpoint_is_refused(rng: np.random.Generator) -> None:
    random_encoder(rng).check_network("ab" * 32)
    with pytest.raises(InputError, match="belongs to the network abababababab, and the checkpoint is cdcdcdcdcdcd"):
        random_encoder(rng).check_network("cd" * 32)
