"""The torch backend is a `Generator` like the others, and makes the images that the others are held to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stylert.export.pipeline import export_bundle
from stylert.export.reference import torch_generator
from stylert.export.verify import psnr
from stylert.runtime import Bundle, Generator
from stylert.runtime.errors import BackendError, InputError


def test_its_images_are_those_of_the_exported_network(bundle: Bundle, checkpoint: Path) -> None:
    with torch_generator(bundle, checkpoint) as reference, Generator.load(bundle) as exported:
        assert (reference.backend, reference.precision) == ("torch", "fp32")
        for arguments in ({}, {"psi": 0.5}, {"psi": 0.6, "cutoff": 3}):
            a, b = reference(range(6), **arguments), exported(range(6), **arguments)
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert np.mean([psnr(x, y) for x, y in zip(a, b, strict=True)]) >= bundle.precision("fp32").min_psnr_db


def test_labels_float_output_and_noise_free_bundles_are_followed(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    path = make_checkpoint(c_dim=3)
    bundle = export_bundle(path, tmp_path / "b", ["fp32"], noise="none", output="float")
    with torch_generator(bundle, path) as reference, Generator.load(bundle) as exported:
        a, b = reference([4, 5], labels=[2, 0]), exported([4, 5], labels=[2, 0])
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=2e-4 * np.abs(b).max())


def test_threads_streams_and_split_batches_work_as_on_the_other_backends(bundle: Bundle, checkpoint: Path) -> None:
    with torch_generator(bundle, checkpoint, max_batch=2) as g, ThreadPoolExecutor(3) as pool:
        alone = [g([s]) for s in range(6)]
        for image, expected in zip(pool.map(lambda s: g([s]), range(6)), alone, strict=True):
            np.testing.assert_array_equal(image, expected)
        assert np.abs(g(range(5)).astype(int) - np.concatenate(alone[:5]).astype(int)).max() <= 1
        streamed = list(g.stream([g.map(np.ones((1, 24)) * i) for i in range(3)]))
        assert [len(images) for images in streamed] == [1, 1, 1]
    with pytest.raises(BackendError, match="closed"):
        g([0])


def test_another_checkpoint_a_missing_device_and_missing_torch_are_one_line(
    bundle: Bundle, checkpoint: Path, make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="not the checkpoint"):
        torch_generator(bundle, make_checkpoint())
    with pytest.raises(InputError, match="does not exist"):
        torch_generator(bundle, tmp_path / "no.safetensors")
    for device in ("abacus", "cuda:9"):
        with pytest.raises(BackendError, match="device") as e:
            torch_generator(bundle, checkpoint, device)
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="torch_generator"):
        Generator.load(bundle, "torch")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match="pip install"):
        torch_generator(bundle, checkpoint)
