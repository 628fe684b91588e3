"""`CudaSession` is opened and closed: engines that are refused, kept kernels, and memory that is freed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BackendError
from stylert.runtime import Bundle
from stylert.runtime.cuda.engine_session import CudaSession
from tests.runtime.cuda.fake_driver import CUresult, FakeDriver, real
from tests.runtime.cuda.fake_tensorrt import FakeEngine, FakeRtxEngine, fake_rtx, fake_trt
from tests.runtime.cuda.latents import generator_on_gpu, images_of, ws


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
