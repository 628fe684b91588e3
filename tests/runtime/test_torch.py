"""The torch backend computes the bundle's own file, and gives the images of the checkpoint that it came from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.export.pipeline import export_bundle
from stylert.export.verify import psnr
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.devices import Driver, Gpu
from stylert.runtime.engines import build_engine
from stylert.runtime.errors import BackendError, BundleError, InputError
from stylert.runtime.images import as_uint8
from stylert.train.checkpoint import generator_module
from stylert.train.importers.imported import read_any_generator

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def halves(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(checkpoint, tmp_path_factory.mktemp("torch") / "bundle", ["fp32", "fp16"], backends=[])


def of_checkpoint(checkpoint: Path, z: np.ndarray, labels: list[int] | None = None, noise: str = "const") -> np.ndarray:
    """PyTorch's float32 images `[N, C, H, W]` of the training code's own network."""
    module = generator_module(read_any_generator(checkpoint)).eval()
    c = None if labels is None else torch.eye(3)[labels]
    with torch.inference_mode():
        return module.synthesis(module.mapping(torch.from_numpy(z), c), noise_mode=noise).numpy()


def assert_promise_kept(bundle: Bundle, images: np.ndarray, expected: np.ndarray) -> None:
    """What a float32 bundle promises is the bound: PSNR over [-1, 1] as over 0 to 255, here for every single image."""
    for image, wanted in zip(127.5 * images, 127.5 * expected, strict=True):
        assert psnr(image, wanted) >= bundle.precision("fp32").min_psnr_db


def test_its_images_are_those_of_the_checkpoints_own_network(
    halves: Bundle, checkpoint: Path, rng: np.random.Generator
) -> None:
    z = rng.standard_normal((5, 24), np.float32)
    expected = as_uint8(of_checkpoint(checkpoint, z))
    for precision in ("fp32", "fp16"):
        with Generator.load(halves, "torch", precision) as g:
            assert (g.backend, g.engine) == ("torch", None)
            images = g.synthesize(g.map(z))
        apart = [psnr(a, b) for a, b in zip(images, expected, strict=True)]
        assert np.mean(apart) >= halves.precision(precision).min_psnr_db


def test_labels_float_output_and_noise_free_bundles_are_followed(
    make_checkpoint: Callable[..., Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    path = make_checkpoint(c_dim=3)
    z = rng.standard_normal((2, 24), np.float32)
    expected = of_checkpoint(path, z, [2, 0], "none")
    bundle = export_bundle(path, tmp_path / "b", ["fp32"], noise="none", output="float")
    with Generator.load(bundle, "torch") as g:
        images = g.synthesize(g.map(z, labels=[2, 0]))
    assert (images.dtype, images.shape) == (np.float32, (2, 3, 16, 16))
    assert_promise_kept(bundle, images, expected)


@pytest.mark.parametrize(
    "changes", [{"architecture": "resnet"}, {"architecture": "orig", "img_channels": 1}, {"resolution": 4}]
)
def test_every_architecture_that_is_exported_is_known(
    make_checkpoint: Callable[..., Path], tmp_path: Path, rng: np.random.Generator, changes: dict[str, Any]
) -> None:
    path = make_checkpoint(**changes)
    z = rng.standard_normal((2, 24), np.float32)
    expected = of_checkpoint(path, z)
    bundle = export_bundle(path, tmp_path / "b", ["fp32"], output="float", backends=[])
    with Generator.load(bundle, "torch") as g:
        assert_promise_kept(bundle, g.synthesize(g.map(z)), expected)


def test_noise_inputs_reach_their_layers(
    make_checkpoint: Callable[..., Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    bundle = export_bundle(make_checkpoint(), tmp_path / "b", ["fp32"], noise="input")
    noise = {n: rng.standard_normal((2, 1, r, r), np.float32) for n, r in bundle.noise_inputs.items()}
    with Generator.load(bundle, "torch") as g, Generator.load(bundle) as expected:
        a, b = (h([0, 1], noise=noise).astype(int) for h in (g, expected))
    assert np.abs(a - b).max() <= 1


def test_threads_streams_and_split_batches_work_as_on_the_other_backends(halves: Bundle) -> None:
    with Generator.load(halves, "torch", max_batch=2) as g, ThreadPoolExecutor(3) as pool:
        alone = [g([s]) for s in range(6)]
        for image, expected in zip(pool.map(lambda s: g([s]), range(6)), alone, strict=True):
            np.testing.assert_array_equal(image, expected)
        assert np.abs(g(range(5)).astype(int) - np.concatenate(alone[:5]).astype(int)).max() <= 1
        assert [len(images) for images in g.stream([g.map(np.ones((1, 24)) * i) for i in range(3)])] == [1, 1, 1]
    with pytest.raises(BackendError, match="closed"):
        g([0])


def test_it_is_taken_by_itself_only_where_a_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def driver(*gpus: Gpu) -> Any:
        return lambda: Driver("13.0", gpus, None if gpus else "no NVIDIA driver is installed")

    monkeypatch.setattr("stylert.runtime.backends.find_gpus", driver())
    assert "torch" not in available_backends()
    monkeypatch.setattr("stylert.runtime.backends.find_gpus", driver(Gpu(0, "a GPU", (9, 0), 2**36)))
    assert "torch" in available_backends()


def test_what_it_cannot_run_and_a_missing_torch_are_one_line(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match="fp32, fp16, not int8"):
        Generator.load(bundle, "torch", "int8")
    with pytest.raises(InputError, match="no engines"):
        build_engine(bundle, "torch", "fp32")
    with pytest.raises(BundleError, match=r"does not know .*QuantizeLinear"):
        backend("torch").load(bundle.path / "synthesis.int8.onnx", "fp32")
    (tmp_path / "x.onnx").write_bytes(b"not a network")
    with pytest.raises(BundleError, match="not a network") as e:
        backend("torch").load(tmp_path / "x.onnx", "fp32")
    assert "\n" not in str(e.value)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"pip install 'stylert\[gpu\]'"):
        Generator.load(bundle, "torch")
