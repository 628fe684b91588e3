"""`CudaSession` on a fake driver and a fake engine, whose device memory lies in this process.

The tests cover the order of the calls, the copies, the graphs and the release of memory. They prove nothing about a real GPU.
"""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BackendError, InputError
from stylert.runtime import Bundle, Generator
from stylert.runtime.cuda import dlpack
from stylert.runtime.cuda import engine_session as cuda
from stylert.runtime.cuda.arrays import LEGACY_STREAM, device_view
from stylert.runtime.cuda.engine_session import CudaSession
from tests.runtime.cuda.fake_cuda import (
    COMPUTE_MS,
    LAYERS,
    NUM_WS,
    SIDE,
    W_DIM,
    CUresult,
    FakeDriver,
    FakeEngine,
    FakeRtxEngine,
    Foreign,
    ForeignByDlpack,
    fake_rtx,
    fake_trt,
    real,
)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setattr(cuda, "load_driver", lambda: fake)
    return fake


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A serialized engine. The fake library does not read it."""
    (tmp_path / "engine").write_bytes(b"plan")
    return tmp_path / "engine"


@pytest.fixture
def session(driver: FakeDriver, plan: Path) -> CudaSession:
    return CudaSession(fake_trt(FakeEngine(driver)), plan)


def generator_on_gpu(bundle: Bundle, session: CudaSession, max_batch: int | None = None) -> Generator:
    return Generator(bundle, "fake", "fp32", session, session, None, max_batch)


def ws(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (n, NUM_WS, W_DIM)).astype(np.float32)


def at_address(array: np.ndarray, offset: int = 0) -> np.ndarray:
    """A copy at an address that is `offset` bytes after a multiple of 256."""
    memory = np.zeros(array.nbytes + 512, np.uint8)
    first = -memory.ctypes.data % 256 + offset
    copy = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def images_of(latents: np.ndarray) -> np.ndarray:
    """The images that the fake network computes."""
    return latents[:, -1, :4].astype(np.uint8).reshape(-1, SIDE, SIDE, 1)


def test_the_fake_has_only_functions_that_the_real_driver_has() -> None:
    names = [name for name in vars(FakeDriver) if name.startswith("cu")]
    assert len(names) > 20
    for name in names:
        assert callable(getattr(real, name)), name


def test_images_depend_on_their_ws_alone_and_not_on_the_batches_before(
    session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    assert session.ranges == [(1, 2, 6)]
    for n in (1, 1, 4, 4, 4, 6, 1, 2):
        latents = ws(n, rng)
        np.testing.assert_array_equal(session.run({"ws": latents}), images_of(latents))
    assert driver.launches == 3  # the calls whose batch equals that of the call before
    assert (driver.graphs, driver.execs) == (0, 0)  # the last call has another batch


def test_equal_calls_are_one_launch_and_one_wait_each(
    session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    session.run({"ws": ws(1, rng)})
    assert driver.log == ["in", "compute", "out", "wait"]
    session.run({"ws": ws(1, rng)})  # captured, then launched
    for _ in range(3):
        driver.log.clear()
        latents = ws(1, rng)
        np.testing.assert_array_equal(session.run({"ws": latents}), images_of(latents))
        assert driver.log == ["launch", "wait"]


def test_batches_that_always_change_are_never_captured(
    session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    for n in (1, 2, 1, 2, 3, 1):
        session.run({"ws": ws(n, rng)})
    assert (driver.launches, driver.execs) == (0, 0)


def test_an_engine_that_cannot_be_captured_runs_without_a_graph_and_says_so_once(
    bundle: Bundle, driver: FakeDriver, plan: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    session = CudaSession(fake_trt(FakeEngine(driver, capturable=False)), plan)
    g = generator_on_gpu(bundle, session)
    assert g.notes == []
    for n in (1, 1, 1, 2, 2, 2):
        latents = ws(n, rng)
        np.testing.assert_array_equal(g.synthesize(latents), images_of(latents))
    list(g.stream([ws(2, rng) for _ in range(5)]))  # the second slot fails to capture as well, and adds no note
    assert (driver.launches, driver.graphs, driver.execs) == (0, 0, 0)
    assert g.notes == ["without a CUDA graph, because capturing one failed"]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{g.notes[0]}: CUDA: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
    session.close()
    assert (driver.memory, driver.events, driver.streams) == ({}, 0, 0)


def test_an_engine_of_tensorrt_rtx_is_captured_once_its_context_allows_it(
    driver: FakeDriver, plan: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    engine = FakeRtxEngine(driver, capturable=False)
    session = CudaSession(fake_rtx(engine), plan, tmp_path / "kernels")
    for _ in range(3):
        session.run({"ws": ws(2, rng)})
    assert (driver.launches, session.notes) == (0, [])
    engine.capturable = True
    for _ in range(3):
        latents = ws(2, rng)
        np.testing.assert_array_equal(session.run({"ws": latents}), images_of(latents))
    assert (driver.launches, session.notes) == (3, [])


@pytest.mark.parametrize("capturable", [True, False])
def test_a_timed_run_separates_copies_network_and_host(
    bundle: Bundle, driver: FakeDriver, plan: Path, rng: np.random.Generator, capturable: bool
) -> None:
    session = CudaSession(fake_trt(FakeEngine(driver, capturable=capturable)), plan)
    g = generator_on_gpu(bundle, session, max_batch=2)
    for n in (1, 1, 1, 2, 2, 3):
        times = g.timed_run(ws(n, rng))
        assert times is not None
        # The fake's clock takes 1 ms for each KiB that it copies, and COMPUTE_MS for each image.
        assert times.h2d == pytest.approx(n * NUM_WS * W_DIM * 4 / 2**10)
        assert times.compute == pytest.approx(n * COMPUTE_MS)
        assert times.d2h == pytest.approx(n * SIDE * SIDE / 2**10)
        assert times.enqueue is not None
        assert times.enqueue > 0
    # Graphs run the second and third call of one image, the second of two images, and the first chunk of three images.
    assert driver.launches == (4 if capturable else 0)
    assert g.timed_run(ws(1, rng)) is not None
    latents = ws(1, rng)
    np.testing.assert_array_equal(g.synthesize(latents), images_of(latents))
    session.close()
    assert (driver.memory, driver.events, driver.execs) == ({}, 0, 0)


def test_a_generator_in_host_memory_times_no_phases(bundle: Bundle, rng: np.random.Generator) -> None:
    with Generator.load(bundle) as g:
        assert (g.device, g.notes, g.timed_run(ws(1, rng))) == ("cpu", [], None)


def test_layer_times_profile_one_call_and_not_the_next(
    session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    for _ in range(2):
        session.run({"ws": ws(2, rng)})
    for n in (2, 5):
        times = session.layer_times({"ws": ws(n, rng)})
        assert times == [(name, n * ms) for name, ms in LAYERS.items()]
    launches = driver.launches
    for _ in range(3):
        latents = ws(2, rng)
        np.testing.assert_array_equal(session.run({"ws": latents}), images_of(latents))
    assert driver.launches == launches + 2  # profiling drops the graph; the second call captures a new one


def test_a_result_is_not_overwritten_by_the_next_call(session: CudaSession, rng: np.random.Generator) -> None:
    latents = ws(2, rng)
    first = session.run({"ws": latents})
    session.run({"ws": ws(2, rng)})
    np.testing.assert_array_equal(first, images_of(latents))


def test_any_number_of_images_runs_and_each_batch_in_its_own_profile(
    bundle: Bundle, driver: FakeDriver, plan: Path, rng: np.random.Generator
) -> None:
    engine = FakeEngine(driver, [(1, 1, 1), (4, 8, 16)])
    g = generator_on_gpu(bundle, CudaSession(fake_trt(engine), plan))
    for n in (1, 3, 5, 16, 18, 40):
        latents = ws(n, rng)
        engine.runs.clear()
        np.testing.assert_array_equal(g.synthesize(latents), images_of(latents))
        images = g.synthesize_on_device(latents)
        assert images.shape == (n, SIDE, SIDE, 1)
        np.testing.assert_array_equal(images.to_host(), images_of(latents))
        assert all(profile == (0 if batch == 1 else 1) for profile, batch in engine.runs)


def test_two_calls_run_at_once_and_a_third_waits(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """Both threads of the stream enqueue before either waits for its result."""
    both = threading.Barrier(2)
    synchronize = driver.cuStreamSynchronize

    def wait_for_the_other(stream: int) -> tuple[CUresult]:
        both.wait(30)  # raises, and fails the test, unless two slots arrive together
        return synchronize(stream)

    monkeypatch.setattr(driver, "cuStreamSynchronize", wait_for_the_other)
    batches = [ws(n, rng) for n in (1, 2, 1, 3, 3, 3, 2, 2)]
    for latents, images in zip(batches, generator_on_gpu(bundle, session).stream(iter(batches)), strict=True):
        np.testing.assert_array_equal(images, images_of(latents))
    assert driver.streams == 2


def test_a_single_caller_uses_one_slot(session: CudaSession, driver: FakeDriver, rng: np.random.Generator) -> None:
    for _ in range(4):
        session.run({"ws": ws(2, rng)})
    assert (driver.streams, len(driver.memory)) == (1, 4)


def test_calls_take_turns_if_memory_is_too_little_for_a_second_slot(
    bundle: Bundle, driver: FakeDriver, plan: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """The first call waits until the other thread of the stream has asked for a second slot in vain."""
    session = CudaSession(fake_trt(FakeEngine(driver, contexts=1)), plan)
    synchronize = driver.cuStreamSynchronize

    def wait_for_the_refusal(stream: int) -> tuple[CUresult]:
        for _ in range(30_000):
            if session.concurrency == 1:
                break
            time.sleep(0.001)
        return synchronize(stream)

    monkeypatch.setattr(driver, "cuStreamSynchronize", wait_for_the_refusal)
    batches = [ws(2, rng) for _ in range(6)]
    for latents, images in zip(batches, generator_on_gpu(bundle, session).stream(iter(batches)), strict=True):
        np.testing.assert_array_equal(images, images_of(latents))
    assert (driver.streams, session.concurrency) == (1, 1)


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
    monkeypatch.setattr("tests.runtime.cuda.fake_cuda.FakeContext.set_tensor_address", lambda self, name, address: False)
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


def test_an_error_of_the_device_does_not_stop_the_rest_from_being_freed(
    session: CudaSession, driver: FakeDriver, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After such an error every call of the driver reports it. Here each also does its work, so that it can be counted."""
    for _ in range(3):
        session.run({"ws": ws(3, rng)})

    def failing(function: Any) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            function(*arguments)
            return (CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,)

        call.__name__ = function.__name__
        return call

    for name in [name for name in vars(FakeDriver) if "Free" in name or "Destroy" in name or "Ctx" in name]:
        monkeypatch.setattr(driver, name, failing(getattr(driver, name)))
    session.close()
    assert driver.memory == {}
    assert (driver.retained, driver.streams, driver.graphs, driver.execs, driver.events) == (0, 0, 0, 0, 0)


def test_kernels_that_cannot_be_read_from_the_library_lose_no_execution_slot(
    driver: FakeDriver, plan: Path, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeRtxEngine(driver)

    def serialize() -> bytes:
        raise RuntimeError("out of host memory")

    monkeypatch.setattr(engine.kernels, "serialize", serialize)
    session = CudaSession(fake_rtx(engine), plan, tmp_path / "kernels")
    session.concurrency = 1
    for _ in range(2):  # the second call would wait for the slot without end
        latents = ws(2, rng)
        np.testing.assert_array_equal(session.run({"ws": latents}), images_of(latents))
    assert len(session._idle_slots) == 1
    monkeypatch.setattr(engine.kernels, "serialize", lambda: None)  # what the bindings return for an error
    session.close()
    assert driver.memory == {}


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


def test_closing_frees_everything_and_closing_twice_is_harmless(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    list(generator_on_gpu(bundle, session).stream([ws(5, rng) for _ in range(5)]))
    session.run({"ws": ws(5, rng)})
    session.run({"ws": ws(5, rng)})
    session.close()
    session.close()
    assert driver.memory == {}
    assert (driver.retained, driver.streams, driver.graphs, driver.execs, driver.events) == (0, 0, 0, 0, 0)


def test_a_refused_engine_is_one_line_and_holds_nothing(driver: FakeDriver, plan: Path) -> None:
    with pytest.raises(BackendError, match="build it again"):
        CudaSession(fake_trt(None), plan)
    assert (driver.memory, driver.retained, driver.streams) == ({}, 0, 0)


@pytest.mark.parametrize("free_bytes", [0, 100, 300, 3000])
def test_too_little_memory_names_a_batch_that_may_fit_and_holds_nothing(
    driver: FakeDriver, plan: Path, free_bytes: int
) -> None:
    driver.free_bytes = free_bytes
    with pytest.raises(BackendError, match=r"--batch up to 1"):
        CudaSession(fake_trt(FakeEngine(driver)), plan)
    assert (driver.memory, driver.retained, driver.streams, driver.events) == ({}, 0, 0, 0)
    assert driver.free_bytes == free_bytes


def test_images_that_do_not_fit_on_the_device_name_how_many_would(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    driver.free_bytes = 9 * SIDE * SIDE
    with pytest.raises(BackendError, match="9 would fit"):
        generator_on_gpu(bundle, session).synthesize_on_device(ws(12, rng))
    session.close()
    assert (driver.retained, driver.memory) == (0, {})


@pytest.mark.parametrize("before", [None, b"", b"version 0: old", b"version 1: kept"])
def test_compiled_kernels_are_kept_for_the_next_start(
    driver: FakeDriver, plan: Path, tmp_path: Path, rng: np.random.Generator, before: bytes | None
) -> None:
    engine = FakeRtxEngine(driver)
    kernels = engine.kernels
    file = tmp_path / "kernels" / "of this engine"
    if before is not None:
        file.parent.mkdir()
        file.write_bytes(before)
    session = CudaSession(fake_rtx(engine), plan, file)
    assert engine.config.runtime_cache is kernels
    assert engine.config.dynamic_shapes_kernel_specialization_strategy == "eager"
    assert (kernels.content == before) == (before == b"version 1: kept")
    kernels.content += b"first "
    session.run({"ws": ws(1, rng)})
    assert file.read_bytes() == kernels.content  # an application may be killed before it closes
    kernels.content += b"second"
    session.close()
    assert file.read_bytes() == kernels.content


def test_a_cache_folder_that_cannot_be_written_costs_only_the_cache(
    driver: FakeDriver, plan: Path, rng: np.random.Generator
) -> None:
    session = CudaSession(fake_rtx(FakeRtxEngine(driver)), plan, plan / "a file is in the way")
    latents = ws(2, rng)
    np.testing.assert_array_equal(session.run({"ws": latents}), images_of(latents))
    session.close()


@pytest.mark.parametrize("fits", [True, False])
def test_an_engine_without_weights_takes_them_from_its_network_or_is_refused(
    driver: FakeDriver, plan: Path, tmp_path: Path, fits: bool
) -> None:
    engine, read = FakeEngine(driver), []
    refitter = SimpleNamespace(refit_cuda_engine=lambda: read == [str(tmp_path / "network.onnx")])
    parser = SimpleNamespace(refit_from_file=lambda file: read.append(file) or fits)
    trt = fake_trt(engine, Refitter=lambda engine, log: refitter, OnnxParserRefitter=lambda refitter, log: parser)
    if fits:
        CudaSession(trt, plan, weights=tmp_path / "network.onnx").close()
    else:
        with pytest.raises(BackendError, match="cannot put the weights"):
            CudaSession(trt, plan, weights=tmp_path / "network.onnx")
    assert read == [str(tmp_path / "network.onnx")]
    assert (driver.memory, driver.retained, driver.streams) == ({}, 0, 0)


def test_without_a_driver_the_error_of_the_real_package_is_one_line(plan: Path) -> None:
    try:
        real.cuInit(0)
    except Exception:
        with pytest.raises(BackendError) as e:
            CudaSession(fake_trt(None), plan)
        assert "\n" not in str(e.value)
    else:
        pytest.skip("this machine has a driver")
