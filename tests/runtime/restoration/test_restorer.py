"""A restorer's images are those of PyTorch on every backend, and wrong calls and damaged bundles are refused in one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BackendError, BundleError, InputError
from stylert.export.restoration.verify import torch_images
from stylert.models.restoration.checkpoints import RestorerWeights
from stylert.runtime.backends import backend as backend_of
from stylert.runtime.restoration import Restorer, RestorerBundle
from stylert.runtime.restoration.restorer import BACKENDS
from tests.runtime.restoration.restorers import photograph, write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[RestorerBundle, RestorerWeights]:
    return write_bundle(tmp_path_factory.mktemp("restorer") / "bundle")


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_are_those_of_pytorch(backend: str, bundle: tuple[RestorerBundle, RestorerWeights]) -> None:
    if backend_of(backend).unavailable_reason() is not None:
        pytest.skip(f"{backend} is not installed")
    photos = np.stack([photograph(16, 16, seed) for seed in range(5)])
    with Restorer.load(bundle[0], backend) as restorer:
        images = restorer.restore(photos)
        batched = restorer.restore(photos, batch=3)
    assert images.shape == photos.shape
    expected = torch_images(bundle[1], photos)
    for actual in (images, batched):
        assert np.abs(actual.astype(int) - expected).max() <= 1  # a value between two bytes may fall to either
        assert (actual != expected).mean() < 0.01


@pytest.mark.parametrize(
    "photographs",
    [
        np.zeros((1, 16, 16, 3), np.float32),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((1, 32, 32, 3), np.uint8),
        np.zeros((1, 16, 16, 1), np.uint8),
        np.zeros((0, 16, 16, 3), np.uint8),
        None,
    ],
)
def test_other_arrays_are_refused(photographs: Any, bundle: tuple[RestorerBundle, RestorerWeights]) -> None:
    with (
        Restorer.load(bundle[0]) as restorer,
        pytest.raises(InputError, match=re.escape("photographs are uint8 [N, 16, 16, 3], not")),
    ):
        restorer.restore(photographs)


def test_other_options_are_refused(bundle: tuple[RestorerBundle, RestorerWeights]) -> None:
    with pytest.raises(InputError, match="has no 'int8' network, only: fp32"):
        Restorer.load(bundle[0], precision="int8")
    with pytest.raises(InputError, match="restorers run on onnxruntime and openvino, not on 'mnn'"):
        Restorer.load(bundle[0], "mnn")
    restorer = Restorer.load(bundle[0])
    with pytest.raises(InputError, match="batch is a whole number from 1 to 256"):
        restorer.restore(np.zeros((1, 16, 16, 3), np.uint8), batch=0)
    restorer.close()
    restorer.close()
    with pytest.raises(BackendError, match="closed"):
        restorer.restore(np.zeros((1, 16, 16, 3), np.uint8))


def edited(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: manifest.update(changes)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (edited(schema=2), "has schema 2; this stylert reads schema 1"),
        (edited(network="stylegan2"), "network is one of gfpgan, gpen"),
        (edited(resolution=24), "resolution is a power of two"),
        (edited(precisions={}), "it has no precision"),
        (edited(files={}), "restorer.fp32.onnx is not listed under files"),
        (edited(files={"../x.onnx": {"sha256": "0" * 64, "bytes": 1}}), "not a plain file name"),
        (edited(resolution=32), "does not fit restorer.json: it has input photo"),
    ],
)
def test_a_changed_manifest_is_refused(change: Callable[[dict[str, Any]], None], problem: str, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    manifest = tmp_path / "bundle" / "restorer.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    change(content)
    manifest.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BundleError, match=re.escape(problem)) as error:
        Restorer.load(tmp_path / "bundle")
    assert "\n" not in str(error.value)


def test_changed_and_missing_files_are_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    network = tmp_path / "bundle" / "restorer.fp32.onnx"
    whole = bytearray(network.read_bytes())
    network.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match="bytes, the manifest says"):
        Restorer.load(tmp_path / "bundle")
    whole[len(whole) // 2] ^= 1
    network.write_bytes(whole)
    with pytest.raises(BundleError, match="does not match its sha256"):
        Restorer.load(tmp_path / "bundle")
    network.unlink()
    with pytest.raises(BundleError, match="is missing; export the bundle again"):
        Restorer.load(tmp_path / "bundle")
    with pytest.raises(BundleError, match="no bundle of a restorer; make one with: stylert restorer export"):
        RestorerBundle.load(tmp_path)


def test_restoring_needs_no_torch() -> None:
    code = "import sys, stylert.runtime.restoration, stylert.runtime.restoration.restoring; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
