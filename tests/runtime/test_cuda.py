"""The GPU session on a driver and a runtime of one's own making, whose device memory lies in this process.

This shows the order of the calls, the copies, the graph and what is given back. It shows nothing about a real GPU.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stylert.runtime import cuda
from stylert.runtime.cuda import CudaSession
from stylert.runtime.errors import BackendError

real = pytest.importorskip("cuda.bindings.driver")

NUM_WS, W_DIM, SIDE = 3, 4, 2


class CUresult(enum.Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_VALUE = 1


class FakeDriver:
    """Device and pinned memory are ctypes buffers; a captured graph is the list of the calls that were made meanwhile."""

    CUresult = CUresult
    CUstream_flags = real.CUstream_flags
    CUstreamCaptureMode = real.CUstreamCaptureMode

    def __init__(self, room: int = 2**20) -> None:
        self.room = room
        self.memory: dict[int, Any] = {}
        self.retained = self.streams = self.graphs = self.execs = self.launches = 0
        self.recording: list[Callable[[], object]] | None = None
        self.waiting: list[Callable[[], object]] = []

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the session calls {name}, which the fake does not have")

    def _allocate(self, size: int) -> tuple[CUresult, int]:
        if size > self.room:
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY, 0
        self.room -= size
        buffer = (ctypes.c_uint8 * size)()
        self.memory[ctypes.addressof(buffer)] = buffer
        return CUresult.CUDA_SUCCESS, ctypes.addressof(buffer)

    def _free(self, address: int) -> tuple[CUresult]:
        buffer = self.memory.pop(int(address), None)
        if buffer is None:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        self.room += len(buffer)
        return (CUresult.CUDA_SUCCESS,)

    def enqueue(self, work: Callable[[], object]) -> tuple[CUresult]:
        (self.waiting if self.recording is None else self.recording).append(work)
        return (CUresult.CUDA_SUCCESS,)

    def _copy(self, to: int, source: int, size: int, stream: int) -> tuple[CUresult]:
        return self.enqueue(lambda: ctypes.memmove(to, source, size))

    def cuInit(self, flags: int) -> tuple[CUresult]:
        return (CUresult.CUDA_SUCCESS,)

    def cuDeviceGet(self, index: int) -> tuple[CUresult, int]:
        return CUresult.CUDA_SUCCESS, index

    def cuDevicePrimaryCtxRetain(self, gpu: int) -> tuple[CUresult, int]:
        self.retained += 1
        return CUresult.CUDA_SUCCESS, 77

    def cuDevicePrimaryCtxRelease(self, gpu: int) -> tuple[CUresult]:
        self.retained -= 1
        return (CUresult.CUDA_SUCCESS,)

    def cuCtxSetCurrent(self, context: int) -> tuple[CUresult]:
        assert context == 77
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamCreate(self, flags: int) -> tuple[CUresult, int]:
        self.streams += 1
        return CUresult.CUDA_SUCCESS, 5

    def cuStreamDestroy(self, stream: int) -> tuple[CUresult]:
        self.streams -= 1
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamSynchronize(self, stream: int) -> tuple[CUresult]:
        for work in self.waiting:
            work()
        self.waiting.clear()
        return (CUresult.CUDA_SUCCESS,)

    def cuMemAlloc(self, size: int) -> tuple[CUresult, int]:
        return self._allocate(size)

    def cuMemFree(self, address: int) -> tuple[CUresult]:
        return self._free(address)

    def cuMemHostAlloc(self, size: int, flags: int) -> tuple[CUresult, int]:
        return self._allocate(size)

    def cuMemFreeHost(self, address: int) -> tuple[CUresult]:
        return self._free(address)

    def cuMemGetInfo(self) -> tuple[CUresult, int, int]:
        return CUresult.CUDA_SUCCESS, self.room, 2**20

    def cuMemcpyHtoDAsync(self, to: int, source: int, size: int, stream: int) -> tuple[CUresult]:
        return self._copy(to, source, size, stream)

    def cuMemcpyDtoHAsync(self, to: int, source: int, size: int, stream: int) -> tuple[CUresult]:
        return self._copy(to, source, size, stream)

    def cuMemcpyDtoDAsync(self, to: int, source: int, size: int, stream: int) -> tuple[CUresult]:
        return self._copy(to, source, size, stream)

    def cuStreamBeginCapture(self, stream: int, mode: object) -> tuple[CUresult]:
        assert mode in real.CUstreamCaptureMode
        self.recording = []
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream: int) -> tuple[CUresult, list]:
        graph, self.recording = self.recording or [], None
        self.graphs += 1
        return CUresult.CUDA_SUCCESS, graph

    def cuGraphInstantiate(self, graph: list, flags: int) -> tuple[CUresult, list]:
        self.execs += 1
        return CUresult.CUDA_SUCCESS, list(graph)

    def cuGraphDestroy(self, graph: list) -> tuple[CUresult]:
        self.graphs -= 1
        return (CUresult.CUDA_SUCCESS,)

    def cuGraphExecDestroy(self, graph: list) -> tuple[CUresult]:
        self.execs -= 1
        return (CUresult.CUDA_SUCCESS,)

    def cuGraphLaunch(self, graph: list, stream: int) -> tuple[CUresult]:
        self.launches += 1
        self.waiting.extend(graph)
        return (CUresult.CUDA_SUCCESS,)


class FakeEngine:
    """ws `[N, 3, 4]` to a 2 x 2 image whose pixels are the first four numbers of each ws's last row, as bytes."""

    num_io_tensors = 2
    device_memory_size_v2 = 2**20
    names = ("ws", "image")

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.addresses: dict[str, int] = {}
        self.batch = 0

    def get_tensor_name(self, i: int) -> str:
        return self.names[i]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(1, NUM_WS, W_DIM), (2, NUM_WS, W_DIM), (6, NUM_WS, W_DIM)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, NUM_WS, W_DIM) if name == "ws" else (-1, SIDE, SIDE, 1)

    def get_tensor_dtype(self, name: str) -> str:
        return "float32" if name == "ws" else "uint8"

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "ws" else "out"

    def create_execution_context(self) -> FakeEngine:
        return self

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return True

    def execute_async_v3(self, stream: int) -> bool:
        batch, addresses = self.batch, dict(self.addresses)

        def compute() -> None:
            values = (ctypes.c_float * (batch * NUM_WS * W_DIM)).from_address(addresses["ws"])
            ws = np.frombuffer(values, np.float32).reshape(batch, NUM_WS, W_DIM)
            pixels = np.ascontiguousarray(ws[:, -1].astype(np.uint8))
            ctypes.memmove(addresses["image"], pixels.ctypes.data, pixels.nbytes)

        self.driver.enqueue(compute)
        return True


def fake_trt(engine: FakeEngine | None) -> Any:
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    return SimpleNamespace(
        __name__="fake_trt",
        __version__="1.0",
        Logger=Logger,
        Runtime=lambda log: runtime,
        TensorIOMode=SimpleNamespace(INPUT="in"),
        nptype=np.dtype,
    )


class Logger:
    ERROR = 1

    def __init__(self, severity: int) -> None: ...


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setattr(cuda, "_driver", lambda: fake)
    return fake


@pytest.fixture
def session(driver: FakeDriver, tmp_path: Path) -> CudaSession:
    (tmp_path / "engine").write_bytes(b"plan")
    return CudaSession(fake_trt(FakeEngine(driver)), tmp_path / "engine")


def ws(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (n, NUM_WS, W_DIM)).astype(np.float32)


def images_of(latents: np.ndarray) -> np.ndarray:
    return latents[:, -1].astype(np.uint8).reshape(-1, SIDE, SIDE, 1)


def test_the_fake_has_only_functions_that_the_real_driver_has() -> None:
    names = [name for name in vars(FakeDriver) if name.startswith("cu")]
    assert len(names) > 15
    for name in names:
        assert callable(getattr(real, name)), name


def test_images_are_those_of_their_ws_whatever_batch_came_before(
    session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    assert session.batches == (1, 6)
    for n in (1, 1, 4, 4, 4, 6, 1, 2):
        latents = ws(n, rng)
        np.testing.assert_array_equal(session.run({"ws": latents}), images_of(latents))
    assert driver.launches == 3  # of eight calls, those that had the batch of the one before
    assert (driver.graphs, driver.execs) == (0, 1)


def test_a_result_is_not_overwritten_by_the_next_call(session: CudaSession, rng: np.random.Generator) -> None:
    latents = ws(2, rng)
    first = session.run({"ws": latents})
    session.run({"ws": ws(2, rng)})
    np.testing.assert_array_equal(first, images_of(latents))


def test_an_image_on_the_device_is_told_by_its_interface_and_outlives_the_session(
    session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    latents = ws(3, rng)
    array = session.run_on_device({"ws": latents})
    session.run({"ws": ws(3, rng)})
    session.close()
    told = array.__cuda_array_interface__
    assert (told["shape"], told["typestr"], told["version"]) == ((3, SIDE, SIDE, 1), "|u1", 3)
    found = np.frombuffer((ctypes.c_uint8 * 12).from_address(told["data"][0]), np.uint8).reshape(told["shape"])
    np.testing.assert_array_equal(found, images_of(latents))
    assert driver.retained == 1
    del array
    assert (driver.retained, driver.memory) == (0, {})


def test_closing_gives_everything_back_and_twice_is_harmless(
    session: CudaSession, driver: FakeDriver, rng: np.random.Generator
) -> None:
    session.run({"ws": ws(5, rng)})
    session.close()
    session.close()
    assert driver.memory == {}
    assert (driver.retained, driver.streams, driver.graphs, driver.execs) == (0, 0, 0, 0)


def test_an_engine_that_the_runtime_refuses_is_one_line_and_holds_nothing(driver: FakeDriver, tmp_path: Path) -> None:
    (tmp_path / "engine").write_bytes(b"plan")
    with pytest.raises(BackendError, match="build it again"):
        CudaSession(fake_trt(None), tmp_path / "engine")
    assert (driver.memory, driver.retained, driver.streams) == ({}, 0, 0)


@pytest.mark.parametrize("room", [0, 100, 300])
def test_too_little_memory_names_a_batch_that_may_fit_and_holds_nothing(driver: FakeDriver, tmp_path: Path, room: int) -> None:
    driver.room = room
    (tmp_path / "engine").write_bytes(b"plan")
    with pytest.raises(BackendError, match=r"--batch up to 1|OUT_OF_MEMORY"):
        CudaSession(fake_trt(FakeEngine(driver)), tmp_path / "engine")
    assert (driver.memory, driver.retained, driver.room) == ({}, 0, room)


def test_without_a_driver_the_real_package_gives_one_line(tmp_path: Path) -> None:
    try:
        real.cuInit(0)
    except Exception:
        with pytest.raises(BackendError) as e:
            CudaSession(fake_trt(None), tmp_path / "engine")
        assert "\n" not in str(e.value)
    else:
        pytest.skip("this machine has a driver")
