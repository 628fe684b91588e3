"""Arrays on the GPU go in and out of `CudaSession` without a copy, on a fake driver and a fake engine."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BackendError, InputError
from stylert.runtime import Bundle, Generator
from stylert.runtime.cuda import dlpack
from stylert.runtime.cuda.arrays import LEGACY_STREAM, device_view
from stylert.runtime.cuda.engine_session import CudaSession
from tests.runtime.cuda.fake_driver import NUM_WS, SIDE, W_DIM, FakeDriver
from tests.runtime.cuda.fake_tensorrt import FakeEngine, fake_trt
from tests.runtime.cuda.foreign_arrays import Foreign, ForeignByDlpack
from tests.runtime.cuda.latents import at_address, generator_on_gpu, images_of, ws


@pytest.mark.parametrize("protocol", ["interface", "dlpack"])
def test_ws_on_the_device_are_read_in_place(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator, protocol: str
) -> None:
    g = generator_on_gpu(bundle, session)
    for n in (2, 2, 2, 9):
        latents = ws(n, rng)
        foreign: Any = Foreign(driver, latents) if protocol == "interface" else ForeignByDlpack(latents)
        driver.log.clear()
        np.testing.assert_array_equal(g.synthesize(foreign), images_of(latents))
        np.testing.assert_array_equal(g.synthesize_on_device(foreign).to_host(), images_of(latents))
        assert "in" not in driver.log
        if protocol == "dlpack":
            assert foreign.streams == [LEGACY_STREAM, LEGACY_STREAM]


def test_the_session_waits_for_a_stream_that_still_writes_the_ws(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    latents, late = ws(3, rng), np.zeros((3, NUM_WS, W_DIM), np.float32)
    foreign = Foreign(driver, late, lambda: np.copyto(late, latents))
    np.testing.assert_array_equal(generator_on_gpu(bundle, session).synthesize(foreign), images_of(latents))


def test_equal_calls_with_arrays_on_the_device_are_one_launch_without_copies(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    g, latents, images = generator_on_gpu(bundle, session), at_address(ws(4, rng)), np.zeros((4, SIDE, SIDE, 1), np.uint8)
    images = at_address(images)
    source, out = Foreign(driver, latents), Foreign(driver, images)
    graph_launch = ["launch", "wait"]
    for expected in (["compute", "wait"], ["compute", *graph_launch], graph_launch, graph_launch):
        latents[...] = ws(4, rng)
        driver.log.clear()
        assert g.synthesize_on_device(source, out=out) is out
        np.testing.assert_array_equal(images, images_of(latents))
        assert driver.log == expected


@pytest.mark.parametrize(("offset_in", "offset_out"), [(4, 0), (0, 1), (64, 128)])
def test_arrays_at_addresses_that_tensorrt_does_not_take_are_copied_on_the_device(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator, offset_in: int, offset_out: int
) -> None:
    """A view of a larger array may begin anywhere. The copies are in the graph as well."""
    g, latents = generator_on_gpu(bundle, session), at_address(ws(4, rng), offset_in)
    images = at_address(np.zeros((4, SIDE, SIDE, 1), np.uint8), offset_out)
    source, out = Foreign(driver, latents), Foreign(driver, images)
    copies = ["across"] * bool(offset_in), ["across"] * bool(offset_out)
    for call in range(4):
        latents[...] = ws(4, rng)
        driver.log.clear()
        g.synthesize_on_device(source, out=out)
        np.testing.assert_array_equal(images, images_of(latents))
        if call == 0:
            assert driver.log == [*copies[0], "compute", *copies[1], "wait"]
        elif call > 1:
            assert driver.log == ["launch", "wait"]


def test_memory_that_the_engine_refuses_is_an_error(
    session: CudaSession, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.runtime.cuda.fake_tensorrt.FakeContext.set_tensor_address", lambda self, name, address: False)
    with pytest.raises(BackendError, match="does not take the memory of ws"):
        session.run({"ws": ws(1, rng)})


def test_arrays_on_another_gpu_are_refused(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    g, latents = generator_on_gpu(bundle, session), ws(2, rng)
    other = ForeignByDlpack(latents)
    monkeypatch.setattr(ForeignByDlpack, "__dlpack_device__", lambda self: (dlpack.CUDA, 1))
    message = "on GPU 1, and images are made on GPU 0; CUDA_VISIBLE_DEVICES=1"
    with pytest.raises(InputError, match=message):
        g.synthesize(other)
    monkeypatch.setattr("stylert.runtime.cuda.arrays.gpu_of", lambda pointer: 1)
    with pytest.raises(InputError, match=message):
        g.synthesize(Foreign(driver, latents))
    with pytest.raises(InputError, match=message):
        g.synthesize_on_device(latents, out=Foreign(driver, np.zeros((2, SIDE, SIDE, 1), np.uint8)))
    assert driver.log == []


def test_arrays_that_do_not_fit_are_refused_before_anything_runs(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    g, good = generator_on_gpu(bundle, session), ws(2, rng)
    for bad, word in (
        (good.astype(np.float64), "float32"),
        (good[:, :3], "contiguous"),
        (good[:, :3].copy(), "shape"),
        (good[:0], "at least 1"),
    ):
        with pytest.raises(InputError, match=word):
            g.synthesize(Foreign(driver, bad))
    images = np.zeros((2, SIDE, SIDE, 1), np.uint8)
    read_only = images.copy()
    read_only.flags.writeable = False
    for out in (images, Foreign(driver, images[:1]), Foreign(driver, images.astype(np.int8)), Foreign(driver, read_only)):
        with pytest.raises(InputError, match="out must be"):
            g.synthesize_on_device(good, out=out)
    with Generator.load(bundle) as host, pytest.raises(InputError, match="on a GPU, and onnxruntime"):
        host.synthesize(Foreign(driver, good))
    assert driver.log == []


def test_an_engine_of_large_batches_pads_host_arrays_and_refuses_others(
    bundle: Bundle, driver: FakeDriver, plan: Path, rng: np.random.Generator
) -> None:
    g = generator_on_gpu(bundle, CudaSession(fake_trt(FakeEngine(driver, [(4, 4, 4)])), plan))
    latents = ws(6, rng)
    np.testing.assert_array_equal(g.synthesize(latents), images_of(latents))
    np.testing.assert_array_equal(g.synthesize_on_device(latents).to_host(), images_of(latents))
    with pytest.raises(InputError, match="runs 2 images as 4"):
        g.synthesize(Foreign(driver, latents))
    with pytest.raises(InputError, match="no room"):
        g.synthesize_on_device(latents, out=Foreign(driver, np.zeros((6, SIDE, SIDE, 1), np.uint8)))


def test_images_on_the_device_support_both_protocols_and_outlive_the_session(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    latents = ws(3, rng)
    array = generator_on_gpu(bundle, session).synthesize_on_device(latents)
    session.run({"ws": ws(3, rng)})
    session.close()
    interface = array.__cuda_array_interface__
    shape, pointer = interface["shape"], interface["data"][0]
    assert (shape, interface["typestr"], interface["version"], interface["stream"]) == ((3, SIDE, SIDE, 1), "|u1", 3, None)
    imported = dlpack.from_capsule(array.__dlpack__(stream=LEGACY_STREAM))
    assert (imported.pointer, imported.shape, imported.device) == (pointer, shape, (dlpack.CUDA, 0))
    content = np.frombuffer((ctypes.c_uint8 * 12).from_address(pointer), np.uint8).reshape(shape)
    np.testing.assert_array_equal(content, images_of(latents))
    with pytest.raises(BufferError):
        array.__dlpack__(dl_device=(dlpack.CPU, 0))
    view = device_view(array)
    assert view is not None
    assert view.pointer == pointer
    del array, view
    gc.collect()
    assert driver.retained == 1  # the importer still uses the memory
    imported.release()
    gc.collect()
    assert (driver.retained, driver.memory) == (0, {})


def test_images_that_do_not_fit_on_the_device_name_how_many_would(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    driver.free_bytes = 9 * SIDE * SIDE
    with pytest.raises(BackendError, match="9 would fit"):
        generator_on_gpu(bundle, session).synthesize_on_device(ws(12, rng))
    session.close()
    assert (driver.retained, driver.memory) == (0, {})
