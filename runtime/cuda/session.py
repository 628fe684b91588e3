"""A built TensorRT or TensorRT-RTX engine on the GPU, without torch.

A session has up to two lanes, each with an execution context, a stream and memory of its own. While one lane's images are copied
back or used, the other computes: calls from two threads, or `Generator.stream`, fill both. A lone caller uses one, and the
second costs memory only once it is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, BundleError, OutOfMemory
from stylert.runtime.batching import BatchRange
from stylert.runtime.cuda.device_array import Allocation, DeviceArray
from stylert.runtime.cuda.driver import call, load_driver
from stylert.runtime.cuda.execution_slot import Lane
from stylert.runtime.cuda.kernel_cache import KernelCache
from stylert.runtime.session import Inputs, Tensor, Timings, note_missing_graph


class CudaSession:
    """A `DeviceSession` on the first GPU.

    `trt` is the TensorRT or TensorRT-RTX module, `kernels` the file that keeps what TensorRT-RTX compiles, `weights` the
    network that fills an engine built without its weights.

    Raises BackendError for a missing library, an engine that the runtime refuses (another version, another GPU) or too little
    memory, and BundleError for an engine that is not `ws` to `image`.
    """

    device = "cuda"
    #: Batches that can be under way at once
    concurrency = 2

    def __init__(self, trt: Any, engine_file: Path, kernels: Path | None = None, weights: Path | None = None) -> None:
        self._driver = driver = load_driver()
        self._turn = threading.Condition()
        self._free: list[Lane] = []
        self._made = 0
        self._runtime: Any = None
        self._engine: Any = None
        self._kernels: KernelCache | None = None
        self._saved = self._freed = False
        self._trt = trt
        self.notes: list[str] = []
        call(driver.cuInit, 0)
        self._gpu = call(driver.cuDeviceGet, 0)
        self._cuda = call(driver.cuDevicePrimaryCtxRetain, self._gpu)
        try:
            call(driver.cuCtxSetCurrent, self._cuda)
            self._open(trt, engine_file, kernels, weights)
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Inputs) -> np.ndarray:
        """Images `[N, ...]` in host memory, for an N that one of `ranges` holds."""
        return self._on_lane(lambda lane: lane.run(inputs, len(inputs["ws"])))

    def run_into(self, inputs: Inputs, out: int) -> None:
        """The same images, written to device memory at the address `out`."""
        self._on_lane(lambda lane: lane.run(inputs, len(inputs["ws"]), out))

    def timed_run(self, inputs: Inputs) -> Timings:
        """As `run`, for where its time goes."""
        return self._on_lane(lambda lane: lane.timed_run(inputs, len(inputs["ws"])))

    def layer_times(self, inputs: Inputs) -> list[tuple[str, float]]:
        """Name and milliseconds of every layer of the engine in one call, in its order, as the library's profiler tells them."""
        found: list[tuple[str, float]] = []
        profiler = _profiler(self._trt, found)
        self._on_lane(lambda lane: lane.profiled_run(inputs, len(inputs["ws"]), profiler))
        return found

    def new_images(self, n: int, spare: int = 0) -> DeviceArray:
        """Device memory for `n` images, and for `spare` more that are not told of. Raises BackendError where it lacks."""
        try:
            memory = Allocation(self._driver, self._gpu, self.image.nbytes(n + spare))
        except OutOfMemory:
            size = max(self.image.nbytes(1), 1)
            free, _ = call(self._driver.cuMemGetInfo)
            raise BackendError(
                f"{n} images need {(n + spare) * size / 2**20:.0f} MiB on the GPU, where {free / 2**20:.0f} are free; "
                f"{free // size} would fit"
            ) from None
        return memory.array((n, *self.image.shape), self.image.dtype)

    def close(self) -> None:
        """Give back all memory, on the device and pinned. Nothing may be running."""
        with self._turn:
            if self._freed:
                return
            self._freed = True
            call(self._driver.cuCtxSetCurrent, self._cuda)
            if self._kernels is not None:
                self._kernels.save()
            for lane in self._free:
                lane.close()
            self._free = []
            self._kernels = self._engine = self._runtime = self._trt = None
            call(self._driver.cuDevicePrimaryCtxRelease, self._gpu)

    def _open(self, trt: Any, engine_file: Path, kernels: Path | None, weights: Path | None) -> None:
        log = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(log)
        self._engine = engine = self._runtime.deserialize_cuda_engine(engine_file.read_bytes())
        if engine is None:
            raise BackendError(f"{trt.__name__} {trt.__version__} refuses engine {engine_file}; build it again for this GPU")
        if weights is not None:
            _refit(trt, log, engine, weights)
        self._tensors = [_tensor(trt, engine, engine.get_tensor_name(i)) for i in range(engine.num_io_tensors)]
        names = [t.name for t in self._tensors]
        if "ws" not in names or "image" not in names:
            raise BundleError(f"engine {engine_file} does not map ws to image")
        self.image = next(t for t in self._tensors if t.name == "image")
        #: Least, best and largest batch of every optimisation profile
        self.ranges = [_range(engine, i) for i in range(engine.num_optimization_profiles)]
        self._kernels = KernelCache(trt, engine, kernels)
        try:
            self._free.append(self._new_lane())
        except OutOfMemory:
            raise self._too_large() from None
        self._made = 1

    def _on_lane(self, use: Callable[[Lane], Any]) -> Any:
        lane = self._take_lane()
        try:
            call(self._driver.cuCtxSetCurrent, self._cuda)  # current contexts belong to threads
            return use(lane)
        finally:
            with self._turn:
                if not self._saved and self._kernels is not None:
                    self._kernels.save()  # not at the end alone: an application may be killed
                    self._saved = True
                self._free.append(lane)
                self._turn.notify()

    def _take_lane(self) -> Lane:
        """A lane that nobody uses: a new one while there are fewer than `concurrency`, and memory for it."""
        with self._turn:
            if not self._free and self._made < self.concurrency:
                try:
                    call(self._driver.cuCtxSetCurrent, self._cuda)
                    self._free.append(self._new_lane())
                    self._made += 1
                except OutOfMemory:
                    self.concurrency = self._made
            self._turn.wait_for(lambda: self._free)
            return self._free.pop()

    def _new_lane(self) -> Lane:
        config = None if self._kernels is None else self._kernels.config
        context = self._engine.create_execution_context() if config is None else self._engine.create_execution_context(config)
        if context is None:
            raise OutOfMemory("no execution context can be made")
        return Lane(self._driver, context, self._tensors, self.ranges, lambda why: note_missing_graph(self.notes, why))

    def _too_large(self) -> BackendError:
        """What the largest batch needs and what is free, and with it the batch that would fit: memory grows with the batch."""
        largest = max(most for _, _, most in self.ranges)
        need = int(self._engine.device_memory_size_v2) + sum(t.nbytes(largest) for t in self._tensors)
        free, _ = call(self._driver.cuMemGetInfo)
        fits = max(largest * free // max(need, 1), 1)
        return BackendError(
            f"the engine's batch of {largest} needs {need / 2**20:.0f} MiB on the GPU, where {free / 2**20:.0f} are free; "
            f"build one with --batch up to {min(fits, largest)}"
        )


def _tensor(trt: Any, engine: Any, name: str) -> Tensor:
    return Tensor(
        name,
        engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
        np.dtype(trt.nptype(engine.get_tensor_dtype(name))),
        tuple(int(n) for n in engine.get_tensor_shape(name))[1:],
    )


def _range(engine: Any, profile: int) -> BatchRange:
    least, best, most = (int(shape[0]) for shape in engine.get_tensor_profile_shape("ws", profile))
    return least, best, most


def _profiler(trt: Any, found: list[tuple[str, float]]) -> Any:
    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            found.append((layer_name, ms))

    return Profiler()


def _refit(trt: Any, log: Any, engine: Any, weights: Path) -> None:
    """Fill an engine that was built without its weights from the network that it was built from."""
    refitter = trt.Refitter(engine, log)
    if not trt.OnnxParserRefitter(refitter, log).refit_from_file(str(weights)) or not refitter.refit_cuda_engine():
        raise BackendError(
            f"{trt.__name__} {trt.__version__} cannot put the weights of {weights.name} into its engine; build it again"
        )
