"""Latents come back as they were written, and are truncated as the mapping network does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BundleError, InputError, OutputError
from stylert.core.files.digests import sha256_of
from stylert.core.files.outputs import check_output
from stylert.core.seeds import z_from_seeds
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.rendering import average_w
from stylert.runtime.steering.latents_file import read_latents, truncated, write_latents
from tests.runtime.steering.random_files import random_latents


def test_latents_come_back_as_they_were_written(tmp_path: Path, rng: np.random.Generator) -> None:
    written = random_latents(rng)
    write_latents(tmp_path / "a.safetensors", written)
    read = read_latents(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read.ws, written.ws)
    assert (read.names, read.facts, read.network) == (written.names, written.facts, written.network)
    assert read.sha256 == sha256_of(tmp_path / "a.safetensors")
    write_latents(tmp_path / "b.safetensors", read)
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        {"names": ("me",)},
        {"names": ("me", "me")},
        {"names": ()},
        {"network": "x"},
        {"ws": np.full((2, 6, 20), np.nan)},
        {"ws": np.full((2, 6, 20), 1e300)},
        {"ws": np.zeros((2, 120))},
        {"ws": "ws"},
        {"facts": {"a": object()}},
        {"facts": {"a": float("nan")}},
    ],
)
def test_no_file_is_written_that_cannot_be_read(changes: dict[str, Any], tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(InputError):
        write_latents(tmp_path / "a.safetensors", replace(random_latents(rng), **changes))
    assert not list(tmp_path.iterdir())


def test_only_a_file_of_latents_is_replaced_by_one(tmp_path: Path, rng: np.random.Generator, checkpoint: Path) -> None:
    write_latents(tmp_path / "a.safetensors", random_latents(rng))
    check_output(tmp_path / "a.safetensors", "latents")
    for path, kind in ((checkpoint, "latents"), (tmp_path / "a.safetensors", "directions")):
        with pytest.raises(OutputError, match="stylert did not write"):
            check_output(path, kind)


def test_pictures_are_numbered_from_zero(rng: np.random.Generator) -> None:
    latents = random_latents(rng)
    np.testing.assert_array_equal(latents.rows([1, 0, 1]), latents.ws[[1, 0, 1]])
    for wrong in (2, -1):
        with pytest.raises(InputError, match=r"has the pictures 0 to 1, not -?\d"):
            latents.rows([0, wrong])


def test_latents_of_another_network_are_refused(bundle: Bundle, rng: np.random.Generator) -> None:
    origin = bundle.provenance["checkpoint_sha256"]
    replace(random_latents(rng), network=origin).check_network(bundle)
    for wrong in (random_latents(rng), replace(random_latents(rng), network=origin, ws=np.zeros((2, 5, 20), np.float32))):
        with pytest.raises(BundleError, match="belong to the network"):
            wrong.check_network(bundle)


@pytest.mark.parametrize("cutoff", [None, 0, 2])
@pytest.mark.parametrize("psi", [1.0, 0.6, 0.0, -1.0])
def test_truncation_is_that_of_the_mapping_network(psi: float, cutoff: int | None, bundle: Bundle) -> None:
    z = z_from_seeds([0, 1, 2], bundle.model["z_dim"])
    with Generator.load(bundle, threads=1) as generator:
        moved = truncated(generator.map(z), average_w(generator), psi, cutoff)
        np.testing.assert_allclose(moved, generator.map(z, psi, cutoff), rtol=1e-4, atol=1e-4)
