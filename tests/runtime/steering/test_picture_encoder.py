"""The encoder of a bundle: its latents are those of its network, and what is wrong with a bundle or an array is one error."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BundleError, InputError
from stylert.runtime.bundle import MANIFEST, Bundle
from stylert.runtime.steering.picture_encoder import BATCH, PictureEncoder
from tests.small_encoder import add_small_encoder, encoder_matrix


@pytest.fixture
def encoding(bundle: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(bundle.path, tmp_path / "b")
    return add_small_encoder(Bundle.load(tmp_path / "b"))


def pictures(bundle: Bundle, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (count, bundle.resolution, bundle.resolution, 3), np.uint8)


@pytest.mark.parametrize("count", [1, BATCH, 2 * BATCH + 1])
def test_each_picture_has_the_latents_of_the_network(encoding: Bundle, count: int, rng: np.random.Generator) -> None:
    images = pictures(encoding, count, rng)
    with PictureEncoder.load(encoding.path, threads=1) as encoder:
        found = encoder(images)
    expected = images.reshape(count, -1).astype(np.float64) @ encoder_matrix(encoding).astype(np.float64)
    np.testing.assert_allclose(found.reshape(count, -1), expected, rtol=1e-4, atol=1e-4)
    assert (found.dtype, found.shape) == (np.float32, (count, encoding.num_ws, encoding.model["w_dim"]))


def test_an_array_in_another_order_of_memory_is_read_as_it_is(encoding: Bundle, rng: np.random.Generator) -> None:
    images = pictures(encoding, 3, rng)
    with PictureEncoder.load(encoding, threads=1) as encoder:
        np.testing.assert_array_equal(encoder(images[::-1]), encoder(images[::-1].copy()))


def test_encoding_needs_no_torch(encoding: Bundle) -> None:
    code = (
        "import sys, numpy as np; from stylert.runtime.steering.picture_encoder import PictureEncoder\n"
        f"e = PictureEncoder.load({str(encoding.path)!r}, threads=1); e(np.zeros((1, 16, 16, 3), np.uint8))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 16, 16, 3), np.float32),
        np.zeros((0, 16, 16, 3), np.uint8),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((1, 16, 16, 4), np.uint8),
        np.zeros((1, 8, 16, 3), np.uint8),
        [[1]],
        None,
    ],
)
def test_other_arrays_are_refused(encoding: Bundle, wrong: Any) -> None:
    with PictureEncoder.load(encoding, threads=1) as encoder, pytest.raises(InputError, match=r"takes uint8 \[N, 16, 16, 3\]"):
        encoder(wrong)


def test_a_bundle_without_an_encoder_names_the_commands(bundle: Bundle, encoding: Bundle) -> None:
    with pytest.raises(InputError, match=r"no 'fp32' encoder, in no precision; `stylert encoder train`"):
        PictureEncoder.load(bundle)
    for precision in ("int8", "../x", 3, None):
        with pytest.raises(InputError, match="only in: fp32"):
            PictureEncoder.load(encoding, precision)  # type: ignore[arg-type]


def _changed(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads((bundle.path / MANIFEST).read_text())
    change(document["encoder"])
    (bundle.path / MANIFEST).write_text(json.dumps(document))


@pytest.mark.parametrize(
    "change",
    [
        lambda e: e["fp32"].update(file="../../x.onnx"),
        lambda e: e["fp32"].update(file="bundle.json"),
        lambda e: e["fp32"].update(file="none.onnx"),
        lambda e: e["fp32"].update(file=3),
        lambda e: e["fp32"].pop("file"),
        lambda e: e.update({"A b": {"file": "mapping.onnx"}}),
        lambda e: e.update(fp32=[]),
    ],
)
def test_a_wrong_manifest_is_refused(encoding: Bundle, change: Callable[[dict[str, Any]], None]) -> None:
    _changed(encoding, change)
    with pytest.raises(BundleError):
        Bundle.load(encoding.path)


def test_a_file_that_is_no_encoder_or_was_changed_is_refused(encoding: Bundle) -> None:
    _changed(encoding, lambda e: e["fp32"].update(file="mapping.onnx"))
    with pytest.raises(BundleError, match=r"does not fit bundle.json"):
        PictureEncoder.load(encoding.path)
    other = add_small_encoder(encoding, outputs="latents")
    with pytest.raises(BundleError, match=r"does not fit bundle.json"):
        PictureEncoder.load(other)
    file = other.path / other.encoder["fp32"].file
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="does not match its sha256"):
        PictureEncoder.load(other)
