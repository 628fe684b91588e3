"""The GPU session on a driver and a runtime of one's own making, whose device memory lies in this process.

This shows the order of the calls, the copies, the graphs and what is given back. It shows nothing about a real GPU.
"""

from __future__ import annotations

import ctypes
import enum
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stylert.runtime import Bundle, Generator, cuda, dlpack
from stylert.runtime.arrays import on_device
from stylert.runtime.cuda import CudaSession
from stylert.runtime.errors import BackendError, InputError

real = pytest.importorskip("cuda.bindings.driver")

NUM_WS, W_DIM, SIDE = 6, 20, 2  # of the small bundle


class CUresult(enum.Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_VALUE = 1


LEGACY = 1


class FakeDriver:
    """Device and pinned memory are ctypes buffers, a stream is the list of its waiting work, which is done when somebody
    waits for it, and a captured graph is the list of the calls that were made meanwhile."""

    CUresult = CUresult
    CUstream_flags = real.CUstream_flags
    CUevent_flags = real.CUevent_flags
    CUstreamCaptureMode = real.CUstreamCaptureMode

    def __init__(self, room: int = 2**20) -> None:
        self.room = room
        self.memory: dict[int, Any] = {}
        self.retained = self.graphs = self.execs = self.launches = self.events = 0
        self.recording: dict[int, list[Callable[[], object]]] = {}
        self.waiting: dict[int, list[Callable[[], object]]] = {LEGACY: []}
        self.recorded: dict[int, int] = {}
        self.log: list[str] = []
        self.names = iter(range(100, 10**6))
        self.lock = threading.RLock()

    @property
    def streams(self) -> int:
        return len(self.waiting) - 1

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

    def enqueue(self, stream: int, work: Callable[[], object]) -> tuple[CUresult]:
        (self.recording[stream] if stream in self.recording else self.waiting[stream]).append(work)
        return (CUresult.CUDA_SUCCESS,)

    def _drain(self, stream: int) -> None:
        with self.lock:
            work = self.waiting[stream]
            while work:
                work.pop(0)()

    def _copy(self, what: str, to: int, source: int, size: int, stream: int) -> tuple[CUresult]:
        self.log.append(what)
        return self.enqueue(stream, lambda: ctypes.memmove(to, source, size))

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
        name = next(self.names)
        self.waiting[name] = []
        return CUresult.CUDA_SUCCESS, name

    def cuStreamDestroy(self, stream: int) -> tuple[CUresult]:
        del self.waiting[stream]
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamSynchronize(self, stream: int) -> tuple[CUresult]:
        self.log.append("wait")
        self._drain(stream)
        return (CUresult.CUDA_SUCCESS,)

    def cuEventCreate(self, flags: int) -> tuple[CUresult, int]:
        self.events += 1
        return CUresult.CUDA_SUCCESS, next(self.names)

    def cuEventDestroy(self, event: int) -> tuple[CUresult]:
        self.events -= 1
        return (CUresult.CUDA_SUCCESS,)

    def cuEventRecord(self, event: int, stream: int) -> tuple[CUresult]:
        self.recorded[event] = stream
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[CUresult]:
        producer = self.recorded[event]
        return self.enqueue(stream, lambda: self._drain(producer))

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
        return self._copy("in", to, source, size, stream)

    def cuMemcpyDtoHAsync(self, to: int, source: int, size: int, stream: int) -> tuple[CUresult]:
        return self._copy("out", to, source, size, stream)

    def cuMemcpyDtoH(self, to: int, source: int, size: int) -> tuple[CUresult]:
        ctypes.memmove(to, source, size)
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamBeginCapture(self, stream: int, mode: object) -> tuple[CUresult]:
        assert mode in real.CUstreamCaptureMode
        self.recording[stream] = []
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream: int) -> tuple[CUresult, list]:
        self.graphs += 1
        return CUresult.CUDA_SUCCESS, self.recording.pop(stream)

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
        self.log.append("launch")
        self.waiting[stream].extend(graph)
        return (CUresult.CUDA_SUCCESS,)


class FakeEngine:
    """ws `[N, 6, 20]` to a 2 x 2 image whose pixels are the first four numbers of each ws's last row, as bytes."""

    num_io_tensors = 2
    device_memory_size_v2 = 2**20
    names = ("ws", "image")

    def __init__(self, driver: FakeDriver, profiles: list[tuple[int, int, int]] | None = None, contexts: int = 9) -> None:
        self.driver, self.contexts = driver, contexts
        self.profiles = profiles or [(1, 2, 6)]
        self.num_optimization_profiles = len(self.profiles)
        self.ran: list[tuple[int, int]] = []  # profile and batch

    def get_tensor_name(self, i: int) -> str:
        return self.names[i]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(n, NUM_WS, W_DIM) for n in self.profiles[profile]]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, NUM_WS, W_DIM) if name == "ws" else (-1, SIDE, SIDE, 1)

    def get_tensor_dtype(self, name: str) -> str:
        return "float32" if name == "ws" else "uint8"

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "ws" else "out"

    def create_execution_context(self, config: Any = None) -> FakeContext | None:
        self.contexts -= 1
        return FakeContext(self) if self.contexts >= 0 else None


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.batch = self.profile = 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        least, _, most = self.engine.profiles[self.profile]
        return least <= self.batch <= most

    def execute_async_v3(self, stream: int) -> bool:
        batch, addresses = self.batch, dict(self.addresses)
        driver = self.engine.driver
        driver.log.append("compute")
        self.engine.ran.append((self.profile, batch))

        def compute() -> None:
            values = (ctypes.c_float * (batch * NUM_WS * W_DIM)).from_address(addresses["ws"])
            latents = np.frombuffer(values, np.float32).reshape(batch, NUM_WS, W_DIM)
            pixels = np.ascontiguousarray(latents[:, -1, :4].astype(np.uint8))
            ctypes.memmove(addresses["image"], pixels.ctypes.data, pixels.nbytes)

        driver.enqueue(stream, compute)
        return True


def fake_trt(engine: FakeEngine | None, **more: Any) -> Any:
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    return SimpleNamespace(
        __name__="fake_trt",
        __version__="1.0",
        Logger=Logger,
        Runtime=lambda log: runtime,
        TensorIOMode=SimpleNamespace(INPUT="in"),
        nptype=np.dtype,
        **more,
    )


class Logger:
    ERROR = 1

    def __init__(self, severity: int) -> None: ...


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


class Foreign:
    """An array of another library on the fake device, told as CuPy and PyCUDA do; `pending` is work of its own stream."""

    def __init__(self, driver: FakeDriver, array: np.ndarray, pending: Callable[[], object] | None = None) -> None:
        self.array = array
        self.stream = None
        if pending is not None:
            self.stream = driver.cuStreamCreate(0)[1]
            driver.enqueue(self.stream, pending)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.array.ctypes.data, not self.array.flags.writeable)
        strides = None if self.array.flags.c_contiguous else self.array.strides
        told = {"shape": self.array.shape, "typestr": self.array.dtype.str, "data": data, "strides": strides}
        return {**told, "version": 3, "stream": self.stream}


class ForeignByDlpack:
    """The same, told as PyTorch and JAX do: by a capsule that says it lies on a GPU."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.asked: list[object] = []

    def __dlpack__(self, *, stream: object = None) -> object:
        self.asked.append(stream)
        return dlpack.lend(self.array.ctypes.data, self.array.shape, self.array.dtype, (dlpack.CUDA, 0), self.array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, 0


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


class FakeKernels:
    """A kernel cache as TensorRT-RTX has it: it takes only bytes that begin with this version's name."""

    def __init__(self) -> None:
        self.content = b"version 1: "

    def deserialize(self, blob: bytes) -> bool:
        fits = bytes(blob).startswith(b"version 1: ")
        self.content = bytes(blob) if fits else self.content
        return fits

    def serialize(self) -> bytes:
        return self.content


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
