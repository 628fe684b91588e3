"""The GPU session on a driver and a runtime of one's own making, whose device memory lies in this process.

This shows the order of the calls, the copies, the graphs and what is given back. It shows nothing about a real GPU.
"""

from __future__ import annotations

import ctypes
import gc
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BackendError, InputError
from stylert.runtime import Bundle, Generator
from stylert.runtime.cuda import dlpack
from stylert.runtime.cuda import session as cuda
from stylert.runtime.cuda.arrays import on_device
from stylert.runtime.cuda.session import CudaSession
from tests.runtime.cuda.fake_cuda import (
    COMPUTE_MS,
    LAYERS,
    NUM_WS,
    SIDE,
    W_DIM,
    CUresult,
    FakeDriver,
    FakeEngine,
    FakeKernels,
    Foreign,
    ForeignByDlpack,
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
    (tmp_path / "engine").write_bytes(b"plan")
    return tmp_path / "engine"


@pytest.fixture
def session(driver: FakeDriver, plan: Path) -> CudaSession:
    return CudaSession(fake_trt(FakeEngine(driver)), plan)


def on_gpu(bundle: Bundle, session: CudaSession, max_batch: int | None = None) -> Generator:
    return Generator(bundle, "fake", "fp32", session, session, None, max_batch)


def ws(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (n, NUM_WS, W_DIM)).astype(np.float32)


def images_of(latents: np.ndarray) -> np.ndarray:
    return latents[:, -1, :4].astype(np.uint8).reshape(-1, SIDE, SIDE, 1)


def test_the_fake_has_only_functions_that_the_real_driver_has() -> None:
    names = [name for name in vars(FakeDriver) if name.startswith("cu")]
    assert len(names) > 20
    for name in names:
        assert callable(getattr(real, name)), name


def test_images_are_those_of_their_ws_whatever_batch_came_before(
    session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    assert session.ranges == [(1, 2, 6)]
    for n in (1, 1, 4, 4, 4, 6, 1, 2):
        latents = ws(n, rng)
        np.testing.assert_array_equal(session.run({"ws": latents}), images_of(latents))
    assert driver.launches == 3  # of eight calls, those that had the batch of the one before
    assert (driver.graphs, driver.execs) == (0, 0)  # the last call came with another batch


def test_one_image_after_the_other_is_one_launch_and_one_wait_each(
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


def test_batches_that_change_all_the_time_are_never_captured(
    session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    for n in (1, 2, 1, 2, 3, 1):
        session.run({"ws": ws(n, rng)})
    assert (driver.launches, driver.execs) == (0, 0)


def test_an_engine_that_cannot_be_captured_goes_on_without_a_graph_and_says_so_once(
    bundle: Bundle, driver: FakeDriver, plan: Path, rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    session = CudaSession(fake_trt(FakeEngine(driver, capturable=False)), plan)
    g = on_gpu(bundle, session)
    assert g.notes == []
    for n in (1, 1, 1, 2, 2, 2):
        latents = ws(n, rng)
        np.testing.assert_array_equal(g.synthesize(latents), images_of(latents))
    list(g.stream([ws(2, rng) for _ in range(5)]))  # the second lane finds it out for itself, and says nothing
    assert (driver.launches, driver.graphs, driver.execs) == (0, 0, 0)
    assert g.notes == ["without a CUDA graph, because capturing one failed"]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{g.notes[0]}: CUDA: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
    session.close()
    assert (driver.memory, driver.events, driver.streams) == ({}, 0, 0)


@pytest.mark.parametrize("capturable", [True, False])
def test_a_timed_run_tells_copies_network_and_host_apart(
    bundle: Bundle, driver: FakeDriver, plan: Path, rng: np.random.Generator, capturable: bool
) -> None:
    session = CudaSession(fake_trt(FakeEngine(driver, capturable=capturable)), plan)
    g = on_gpu(bundle, session, max_batch=2)
    for n in (1, 1, 1, 2, 2, 3):
        times = g.timed_run(ws(n, rng))
        assert times is not None
        # The fake's clock: a millisecond for each KiB copied, and its own time for each image.
        assert times.h2d == pytest.approx(n * NUM_WS * W_DIM * 4 / 2**10)
        assert times.compute == pytest.approx(n * COMPUTE_MS)
        assert times.d2h == pytest.approx(n * SIDE * SIDE / 2**10)
        assert times.enqueue is not None
        assert times.enqueue > 0
    # Launched as graphs: the second and third of one image, the second of two, and the first step of three, which is such a two.
    assert driver.launches == (4 if capturable else 0)
    assert g.timed_run(ws(1, rng)) is not None
    latents = ws(1, rng)
    np.testing.assert_array_equal(g.synthesize(latents), images_of(latents))
    session.close()
    assert (driver.memory, driver.events, driver.execs) == ({}, 0, 0)


def test_a_generator_in_host_memory_times_no_phases(bundle: Bundle, rng: np.random.Generator) -> None:
    with Generator.load(bundle) as g:
        assert (g.device, g.notes, g.timed_run(ws(1, rng))) == ("cpu", [], None)


def test_the_librarys_profiler_is_asked_for_one_call_and_not_for_the_next(
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
    assert driver.launches == launches + 2  # the graph of before is gone, a new one is made when the batch comes again


def test_a_result_is_not_overwritten_by_the_next_call(session: CudaSession, rng: np.random.Generator) -> None:
    latents = ws(2, rng)
    first = session.run({"ws": latents})
    session.run({"ws": ws(2, rng)})
    np.testing.assert_array_equal(first, images_of(latents))


def test_each_batch_runs_in_the_profile_tuned_for_it_and_any_number_of_images_in_some(
    bundle: Bundle, driver: FakeDriver, plan: Path, rng: np.random.Generator
) -> None:
    engine = FakeEngine(driver, [(1, 1, 1), (4, 8, 16)])
    g = on_gpu(bundle, CudaSession(fake_trt(engine), plan))
    for n in (1, 3, 5, 16, 18, 40):
        latents = ws(n, rng)
        engine.ran.clear()
        np.testing.assert_array_equal(g.synthesize(latents), images_of(latents))
        images = g.synthesize_on_device(latents)
        assert images.shape == (n, SIDE, SIDE, 1)
        np.testing.assert_array_equal(images.to_host(), images_of(latents))
        assert all(profile == (0 if batch == 1 else 1) for profile, batch in engine.ran)


def test_two_calls_are_under_way_at_once_and_a_third_waits(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """The stream's two threads both enqueue before either result is waited for."""
    both = threading.Barrier(2)
    synchronize = driver.cuStreamSynchronize

    def wait_for_the_other(stream: int) -> tuple[CUresult]:
        both.wait(30)  # breaks, and fails the test, unless two lanes get here together
        return synchronize(stream)

    monkeypatch.setattr(driver, "cuStreamSynchronize", wait_for_the_other)
    batches = [ws(n, rng) for n in (1, 2, 1, 3, 3, 3, 2, 2)]
    for latents, images in zip(batches, on_gpu(bundle, session).stream(iter(batches)), strict=True):
        np.testing.assert_array_equal(images, images_of(latents))
    assert driver.streams == 2


def test_a_lone_caller_costs_one_lane(session: CudaSession, driver: FakeDriver, rng: np.random.Generator) -> None:
    for _ in range(4):
        session.run({"ws": ws(2, rng)})
    assert (driver.streams, len(driver.memory)) == (1, 4)


def test_where_a_second_lane_has_no_memory_calls_take_turns(
    bundle: Bundle, driver: FakeDriver, plan: Path, rng: np.random.Generator
) -> None:
    session = CudaSession(fake_trt(FakeEngine(driver, contexts=1)), plan)
    batches = [ws(2, rng) for _ in range(6)]
    for latents, images in zip(batches, on_gpu(bundle, session).stream(iter(batches)), strict=True):
        np.testing.assert_array_equal(images, images_of(latents))
    assert driver.streams == 1


@pytest.mark.parametrize("told", ["interface", "dlpack"])
def test_ws_on_the_device_are_read_where_they_lie(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator, told: str
) -> None:
    g = on_gpu(bundle, session)
    for n in (2, 2, 2, 9):
        latents = ws(n, rng)
        foreign: Any = Foreign(driver, latents) if told == "interface" else ForeignByDlpack(latents)
        driver.log.clear()
        np.testing.assert_array_equal(g.synthesize(foreign), images_of(latents))
        np.testing.assert_array_equal(g.synthesize_on_device(foreign).to_host(), images_of(latents))
        assert "in" not in driver.log
        if told == "dlpack":
            assert foreign.asked == [1, 1]  # its stream is asked to wait, by the number of the legacy default stream


def test_ws_that_another_stream_is_still_writing_are_waited_for(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    latents, late = ws(3, rng), np.zeros((3, NUM_WS, W_DIM), np.float32)
    foreign = Foreign(driver, late, lambda: np.copyto(late, latents))
    np.testing.assert_array_equal(on_gpu(bundle, session).synthesize(foreign), images_of(latents))


def test_the_same_arrays_again_are_one_launch_with_no_copy_at_all(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    g, latents, images = on_gpu(bundle, session), ws(4, rng), np.zeros((4, SIDE, SIDE, 1), np.uint8)
    source, out = Foreign(driver, latents), Foreign(driver, images)
    for i in range(4):
        latents[...] = ws(4, rng)
        driver.log.clear()
        assert g.synthesize_on_device(source, out=out) is out
        np.testing.assert_array_equal(images, images_of(latents))
        assert driver.log == (
            ["compute", "wait"] if i == 0 else ["compute", "launch", "wait"] if i == 1 else ["launch", "wait"]
        )


def test_arrays_that_do_not_fit_are_refused_before_anything_runs(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    g, good = on_gpu(bundle, session), ws(2, rng)
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


def test_an_engine_of_large_batches_pads_host_arrays_and_says_so_of_others(
    bundle: Bundle, driver: FakeDriver, plan: Path, rng: np.random.Generator
) -> None:
    g = on_gpu(bundle, CudaSession(fake_trt(FakeEngine(driver, [(4, 4, 4)])), plan))
    latents = ws(6, rng)
    np.testing.assert_array_equal(g.synthesize(latents), images_of(latents))
    np.testing.assert_array_equal(g.synthesize_on_device(latents).to_host(), images_of(latents))
    with pytest.raises(InputError, match="runs 2 images as 4"):
        g.synthesize(Foreign(driver, latents))
    with pytest.raises(InputError, match="no room"):
        g.synthesize_on_device(latents, out=Foreign(driver, np.zeros((6, SIDE, SIDE, 1), np.uint8)))


def test_images_on_the_device_are_told_both_ways_and_outlive_the_session(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    latents = ws(3, rng)
    array = on_gpu(bundle, session).synthesize_on_device(latents)
    session.run({"ws": ws(3, rng)})
    session.close()
    told = array.__cuda_array_interface__
    assert (told["shape"], told["typestr"], told["version"], told["stream"]) == ((3, SIDE, SIDE, 1), "|u1", 3, None)
    capsule = dlpack.borrow(array.__dlpack__(stream=1))
    assert (capsule.pointer, capsule.shape, capsule.device) == (told["data"][0], told["shape"], (dlpack.CUDA, 0))
    found = np.frombuffer((ctypes.c_uint8 * 12).from_address(told["data"][0]), np.uint8).reshape(told["shape"])
    np.testing.assert_array_equal(found, images_of(latents))
    with pytest.raises(BufferError):
        array.__dlpack__(dl_device=(dlpack.CPU, 0))
    again = on_device(array)
    assert again is not None
    assert again.pointer == capsule.pointer
    del array, again
    gc.collect()
    assert driver.retained == 1  # the borrower still has it
    capsule.give_back()
    gc.collect()
    assert (driver.retained, driver.memory) == (0, {})


def test_closing_gives_everything_back_and_twice_is_harmless(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    list(on_gpu(bundle, session).stream([ws(5, rng) for _ in range(5)]))
    session.run({"ws": ws(5, rng)})
    session.run({"ws": ws(5, rng)})
    session.close()
    session.close()
    assert driver.memory == {}
    assert (driver.retained, driver.streams, driver.graphs, driver.execs, driver.events) == (0, 0, 0, 0, 0)


def test_an_engine_that_the_runtime_refuses_is_one_line_and_holds_nothing(driver: FakeDriver, plan: Path) -> None:
    with pytest.raises(BackendError, match="build it again"):
        CudaSession(fake_trt(None), plan)
    assert (driver.memory, driver.retained, driver.streams) == ({}, 0, 0)


@pytest.mark.parametrize("room", [0, 100, 300, 3000])
def test_too_little_memory_names_a_batch_that_may_fit_and_holds_nothing(driver: FakeDriver, plan: Path, room: int) -> None:
    driver.room = room
    with pytest.raises(BackendError, match=r"--batch up to 1"):
        CudaSession(fake_trt(FakeEngine(driver)), plan)
    assert (driver.memory, driver.retained, driver.streams, driver.events, driver.room) == ({}, 0, 0, 0, room)


def test_images_that_do_not_fit_on_the_device_name_how_many_would(
    bundle: Bundle, session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    driver.room = 9 * SIDE * SIDE
    with pytest.raises(BackendError, match="9 would fit"):
        on_gpu(bundle, session).synthesize_on_device(ws(12, rng))
    session.close()
    assert (driver.retained, driver.memory) == (0, {})


@pytest.mark.parametrize("before", [None, b"", b"version 0: old", b"version 1: kept"])
def test_compiled_kernels_are_kept_for_the_next_start(
    driver: FakeDriver, plan: Path, tmp_path: Path, rng: np.random.Generator, before: bytes | None
) -> None:
    kernels, given = FakeKernels(), []
    config = SimpleNamespace(create_runtime_cache=lambda: kernels, set_runtime_cache=given.append)
    engine = FakeEngine(driver)
    engine.create_runtime_config = lambda: config  # type: ignore[attr-defined]
    strategies = SimpleNamespace(EAGER="eager")
    trt = fake_trt(engine, IRuntimeCache=FakeKernels, DynamicShapesKernelSpecializationStrategy=strategies)
    file = tmp_path / "kernels" / "of this engine"
    if before is not None:
        file.parent.mkdir()
        file.write_bytes(before)
    session = CudaSession(trt, plan, file)
    assert given == [kernels]
    assert config.dynamic_shapes_kernel_specialization_strategy == "eager"
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
    config = SimpleNamespace(create_runtime_cache=FakeKernels, set_runtime_cache=lambda cache: True)
    engine = FakeEngine(driver)
    engine.create_runtime_config = lambda: config  # type: ignore[attr-defined]
    strategies = SimpleNamespace(EAGER="eager")
    trt = fake_trt(engine, IRuntimeCache=FakeKernels, DynamicShapesKernelSpecializationStrategy=strategies)
    session = CudaSession(trt, plan, plan / "a file is in the way")
    latents = ws(2, rng)
    np.testing.assert_array_equal(session.run({"ws": latents}), images_of(latents))
    session.close()


@pytest.mark.parametrize("fits", [True, False])
def test_an_engine_without_weights_is_filled_from_its_network_or_refused(
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


def test_without_a_driver_the_real_package_gives_one_line(plan: Path) -> None:
    try:
        real.cuInit(0)
    except Exception:
        with pytest.raises(BackendError) as e:
            CudaSession(fake_trt(None), plan)
        assert "\n" not in str(e.value)
    else:
        pytest.skip("this machine has a driver")
