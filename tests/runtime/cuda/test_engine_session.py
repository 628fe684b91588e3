"""`CudaSession` on a fake driver and a fake engine, whose device memory lies in this process.

The tests cover the order of the calls, the copies, the graphs and the release of memory. They prove nothing about a real GPU.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from stylert.runtime import Bundle
from stylert.runtime.cuda.engine_session import CudaSession
from tests.runtime.cuda.fake_driver import SIDE, CUresult, FakeDriver, real
from tests.runtime.cuda.fake_tensorrt import FakeEngine, FakeRtxEngine, fake_rtx, fake_trt
from tests.runtime.cuda.latents import generator_on_gpu, images_of, ws


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
