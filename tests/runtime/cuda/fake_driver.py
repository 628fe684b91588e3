"""A fake of the CUDA driver. Its device memory lies in this process, so that sessions can be tested without a GPU."""

from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable
from typing import Any

import pytest

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
