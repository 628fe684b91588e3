"""Fakes of the CUDA driver, of TensorRT engines and of arrays of other libraries.

Their device memory lies in this process, so that sessions can be tested without a GPU.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stylert.runtime.cuda import dlpack

real = pytest.importorskip("cuda.bindings.driver")

#: Latents per image and their size, as in the small bundle of the tests; the side of the fake images
NUM_WS, W_DIM, SIDE = 6, 20, 2

#: The legacy default stream
LEGACY = 1


class CUresult(enum.Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class FakeDriver:
    """The functions of `cuda.bindings.driver` that the session calls.

    - Device memory and pinned memory are ctypes buffers, at addresses that are multiples of 256, as the driver's are.
    - A stream is a list of waiting work. The work runs when somebody waits for the stream.
    - A captured graph is the list of work that was enqueued during the capture.

    Attributes:
        free_bytes: Memory that can still be allocated.
        memory: The allocated buffers, by address.
        retained: References to the primary context.
        log: The names of all copies, launches and waits, in order.
    """

    CUresult = CUresult
    CUstream_flags = real.CUstream_flags
    CUevent_flags = real.CUevent_flags
    CUevent_record_flags = real.CUevent_record_flags
    CUstreamCaptureMode = real.CUstreamCaptureMode

    def __init__(self, free_bytes: int = 2**20) -> None:
        self.free_bytes = free_bytes
        self.memory: dict[int, Any] = {}
        self.retained = self.graphs = self.execs = self.launches = self.events = 0
        self.captures: dict[int, list[Callable[[], object]]] = {}  # by stream
        self.waiting: dict[int, list[Callable[[], object]]] = {LEGACY: []}  # by stream
        self.invalid_captures: set[int] = set()  # streams
        self.event_streams: dict[int, int] = {}  # the stream in which each event was recorded
        self.event_times: dict[int, float] = {}
        self.untimed_events: set[int] = set()
        self.clock = 0.0  # the device's milliseconds, which only its work moves on
        self.log: list[str] = []
        self.handles = iter(range(100, 10**6))
        self.lock = threading.RLock()

    @property
    def streams(self) -> int:
        return len(self.waiting) - 1

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the session calls {name}, which the fake does not have")

    def _allocate(self, size: int) -> tuple[CUresult, int]:
        if size > self.free_bytes:
            return CUresult.CUDA_ERROR_OUT_OF_MEMORY, 0
        self.free_bytes -= size
        buffer = (ctypes.c_uint8 * (size + 256))()
        address = -(-ctypes.addressof(buffer) // 256) * 256
        self.memory[address] = buffer
        return CUresult.CUDA_SUCCESS, address

    def _free(self, address: int) -> tuple[CUresult]:
        buffer = self.memory.pop(int(address), None)
        if buffer is None:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        self.free_bytes += len(buffer) - 256
        return (CUresult.CUDA_SUCCESS,)

    def enqueue(self, stream: int, work: Callable[[], object]) -> tuple[CUresult]:
        (self.captures[stream] if stream in self.captures else self.waiting[stream]).append(work)
        return (CUresult.CUDA_SUCCESS,)

    def run_waiting(self, stream: int) -> None:
        with self.lock:
            work = self.waiting[stream]
            while work:
                work.pop(0)()

    def _copy(self, name: str, to: int, source: int, size: int, stream: int) -> tuple[CUresult]:
        self.log.append(name)

        def copy() -> None:
            ctypes.memmove(to, source, size)
            self.clock += size / 2**10

        return self.enqueue(stream, copy)

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
        handle = next(self.handles)
        self.waiting[handle] = []
        return CUresult.CUDA_SUCCESS, handle

    def cuStreamDestroy(self, stream: int) -> tuple[CUresult]:
        del self.waiting[stream]
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamSynchronize(self, stream: int) -> tuple[CUresult]:
        self.log.append("wait")
        self.run_waiting(stream)
        return (CUresult.CUDA_SUCCESS,)

    def cuEventCreate(self, flags: int) -> tuple[CUresult, int]:
        self.events += 1
        handle = next(self.handles)
        if flags & real.CUevent_flags.CU_EVENT_DISABLE_TIMING.value:
            self.untimed_events.add(handle)
        return CUresult.CUDA_SUCCESS, handle

    def cuEventDestroy(self, event: int) -> tuple[CUresult]:
        self.events -= 1
        return (CUresult.CUDA_SUCCESS,)

    def cuEventRecord(self, event: int, stream: int) -> tuple[CUresult]:
        self.event_streams[event] = stream
        return (CUresult.CUDA_SUCCESS,)

    def cuEventRecordWithFlags(self, event: int, stream: int, flags: int) -> tuple[CUresult]:
        external = flags == real.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL.value
        if external != (stream in self.captures):
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)

        def record() -> None:
            self.event_times[event] = self.clock

        return self.enqueue(stream, record)

    def cuEventElapsedTime(self, begin: int, end: int) -> tuple[CUresult, float]:
        if {begin, end} & self.untimed_events:
            return CUresult.CUDA_ERROR_INVALID_VALUE, 0.0
        return CUresult.CUDA_SUCCESS, self.event_times[end] - self.event_times[begin]

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[CUresult]:
        producer = self.event_streams[event]
        return self.enqueue(stream, lambda: self.run_waiting(producer))

    def cuMemAlloc(self, size: int) -> tuple[CUresult, int]:
        return self._allocate(size)

    def cuMemFree(self, address: int) -> tuple[CUresult]:
        return self._free(address)

    def cuMemHostAlloc(self, size: int, flags: int) -> tuple[CUresult, int]:
        return self._allocate(size)

    def cuMemFreeHost(self, address: int) -> tuple[CUresult]:
        return self._free(address)

    def cuMemGetInfo(self) -> tuple[CUresult, int, int]:
        return CUresult.CUDA_SUCCESS, self.free_bytes, 2**20

    def cuMemcpyHtoDAsync(self, to: int, source: int, size: int, stream: int) -> tuple[CUresult]:
        return self._copy("in", to, source, size, stream)

    def cuMemcpyDtoHAsync(self, to: int, source: int, size: int, stream: int) -> tuple[CUresult]:
        return self._copy("out", to, source, size, stream)

    def cuMemcpyDtoDAsync(self, to: int, source: int, size: int, stream: int) -> tuple[CUresult]:
        return self._copy("across", to, source, size, stream)

    def cuMemcpyDtoH(self, to: int, source: int, size: int) -> tuple[CUresult]:
        ctypes.memmove(to, source, size)
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamBeginCapture(self, stream: int, mode: object) -> tuple[CUresult]:
        assert mode in real.CUstreamCaptureMode
        self.captures[stream] = []
        return (CUresult.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream: int) -> tuple[CUresult, list]:
        graph = self.captures.pop(stream)
        if stream in self.invalid_captures:
            self.invalid_captures.remove(stream)
            return CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, []
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
        self.log.append("launch")
        self.waiting[stream].extend(graph)
        return (CUresult.CUDA_SUCCESS,)


#: Milliseconds of the fake network per image, in all and layer by layer
COMPUTE_MS = 0.75
LAYERS = {"b4.conv1.conv_myl0_1": 0.5, "__myl_MulAdd_myl0_2": 0.25}


class FakeEngine:
    """Maps ws `[N, 6, 20]` to images `[N, 2, 2, 1]`. The pixels are the first four numbers of the last row of each ws.

    Args:
        driver: The fake driver on which it runs.
        profiles: Least, best and largest batch of every optimisation profile.
        contexts: How many execution contexts can be created before memory is too little.
        capturable: Whether it can be captured as a CUDA graph.

    Attributes:
        runs: Profile and batch of every call.
    """

    num_io_tensors = 2
    device_memory_size_v2 = 2**20
    names = ("ws", "image")

    def __init__(
        self,
        driver: FakeDriver,
        profiles: list[tuple[int, int, int]] | None = None,
        contexts: int = 9,
        capturable: bool = True,
    ) -> None:
        self.driver, self.contexts, self.capturable = driver, contexts, capturable
        self.profiles = profiles or [(1, 2, 6)]
        self.num_optimization_profiles = len(self.profiles)
        self.runs: list[tuple[int, int]] = []

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
    """An execution context of TensorRT."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.batch = self.profile = 0
        self.profiler: Any = None

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Whether the library takes the address. It takes multiples of 256."""
        self.addresses[name] = address
        return address % 256 == 0

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
        if stream in driver.captures and not self.engine.capturable:
            driver.invalid_captures.add(stream)
            return False
        driver.log.append("compute")
        self.engine.runs.append((self.profile, batch))

        def compute() -> None:
            values = (ctypes.c_float * (batch * NUM_WS * W_DIM)).from_address(addresses["ws"])
            latents = np.frombuffer(values, np.float32).reshape(batch, NUM_WS, W_DIM)
            pixels = np.ascontiguousarray(latents[:, -1, :4].astype(np.uint8))
            ctypes.memmove(addresses["image"], pixels.ctypes.data, pixels.nbytes)
            driver.clock += COMPUTE_MS * batch

        driver.enqueue(stream, compute)
        if self.profiler is not None:
            driver.run_waiting(stream)  # the real library waits for the network as well
            for name, ms in LAYERS.items():
                self.profiler.report_layer_time(name, ms * batch)
        return True


class FakeRtxContext(FakeContext):
    """An execution context of TensorRT-RTX."""

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.capturable


class FakeRtxEngine(FakeEngine):
    """The engine as TensorRT-RTX has it: it compiles kernels and keeps them in `kernels`.

    Attributes:
        config: The runtime configuration that the session fills in.
    """

    def __init__(self, driver: FakeDriver, capturable: bool = True) -> None:
        super().__init__(driver, capturable=capturable)
        self.kernels = FakeKernels()
        self.config = SimpleNamespace(create_runtime_cache=lambda: self.kernels, set_runtime_cache=self._set_runtime_cache)

    def _set_runtime_cache(self, cache: Any) -> bool:
        self.config.runtime_cache = cache
        return True

    def create_runtime_config(self) -> Any:
        return self.config

    def create_execution_context(self, config: Any = None) -> FakeContext:
        assert config is self.config
        return FakeRtxContext(self)


def fake_trt(engine: FakeEngine | None, **more: Any) -> Any:
    """A module of TensorRT that deserializes every plan to `engine`; None stands for a refused plan."""
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    return SimpleNamespace(
        __name__="fake_trt",
        __version__="1.0",
        Logger=Logger,
        Runtime=lambda log: runtime,
        TensorIOMode=SimpleNamespace(INPUT="in"),
        nptype=np.dtype,
        IProfiler=Profiler,
        **more,
    )


def fake_rtx(engine: FakeRtxEngine) -> Any:
    """A module of TensorRT-RTX that deserializes every plan to `engine`."""
    return fake_trt(engine, DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"))


class Logger:
    ERROR = 1

    def __init__(self, severity: int) -> None: ...


class Profiler:
    """The library's base class of profilers."""


class Foreign:
    """An array of another library on the fake device, with `__cuda_array_interface__` as CuPy and PyCUDA have it.

    `pending` is work that its own stream has yet to do.
    """

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
        return {
            "shape": self.array.shape,
            "typestr": self.array.dtype.str,
            "data": data,
            "strides": strides,
            "version": 3,
            "stream": self.stream,
        }


class ForeignByDlpack:
    """An array of another library on the fake device, with DLPack as PyTorch and JAX have it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.streams: list[object] = []  # that readers gave

    def __dlpack__(self, *, stream: object = None) -> object:
        self.streams.append(stream)
        return dlpack.to_capsule(self.array.ctypes.data, self.array.shape, self.array.dtype, (dlpack.CUDA, 0), self.array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, 0


class FakeKernels:
    """A kernel cache of TensorRT-RTX. It accepts only bytes that begin with the name of its version."""

    def __init__(self) -> None:
        self.content = b"version 1: "

    def deserialize(self, blob: bytes) -> bool:
        fits = bytes(blob).startswith(b"version 1: ")
        self.content = bytes(blob) if fits else self.content
        return fits

    def serialize(self) -> bytes:
        return self.content
