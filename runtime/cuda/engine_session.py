"""Sessions of TensorRT and TensorRT-RTX engines on a GPU, without torch.

A session has up to two execution slots. While the images of one batch are copied or used, the next batch computes in the
other slot. Calls from two threads, or `Generator.stream`, fill both. A single caller uses one slot, and the second slot costs
memory only when it is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stylert.core.errors import BackendError, BundleError, OutOfMemory
from stylert.runtime.batching import BatchRange
from stylert.runtime.cuda.device_array import Allocation, DeviceArray
from stylert.runtime.cuda.driver import call, load_driver, release
from stylert.runtime.cuda.execution_slot import ExecutionSlot
from stylert.runtime.cuda.kernel_cache import KernelCache
from stylert.runtime.forking import ForkGuard
from stylert.runtime.session import HostInputs, Inputs, TensorSpec, Timings, note_missing_graph

Result = TypeVar("Result")

#: The driver refuses the children of a process that has used it.
FORK_GUARD = ForkGuard("CUDA")


class CudaSession:
    """A `DeviceSession` of a built engine on the first GPU.

    Args:
        trt: The module of the library: TensorRT, its lean runtime, or TensorRT-RTX.
        engine_file: The serialized engine.
        kernel_file: For TensorRT-RTX, the file that keeps the kernels that it compiles. For TensorRT, None.
        weights: The ONNX network whose weights fill an engine that was built without them.

    Attributes:
        tensors: The network's inputs and outputs.
        image: Name, type and shape of the network's output.
        ranges: Least, best and largest batch of every optimisation profile.
        concurrency: The number of execution slots: 2, or fewer if memory is too little for a second.
        notes: Remarks that belong beside measured times.

    Raises:
        BackendError: The library is missing or refuses the engine (another version, another GPU), or memory is too little.
        BundleError: The engine does not map `ws` to `image`.
    """

    device = "cuda"

    def __init__(self, trt: Any, engine_file: Path, kernel_file: Path | None = None, weights: Path | None = None) -> None:
        FORK_GUARD.enter()
        self._driver = driver = load_driver()
        self.notes: list[str] = []
        self.concurrency = 2
        self._idle_slots: list[ExecutionSlot] = []
        self._slot_count = 0
        self._slot_change = threading.Condition()
        self._trt = trt
        self._runtime: Any = None
        self._engine: Any = None
        self._kernel_cache: KernelCache | None = None
        self._kernels_saved = self._closed = False
        call(driver.cuInit, 0)
        self._gpu = call(driver.cuDeviceGet, 0)
        self._context = call(driver.cuDevicePrimaryCtxRetain, self._gpu)
        try:
            call(driver.cuCtxSetCurrent, self._context)
            self._open(engine_file, kernel_file, weights)
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Inputs) -> np.ndarray:
        """Images `[N, ...]` in new host memory, for an N that one of `ranges` holds."""
        return self._with_slot(lambda slot: slot.run(inputs, len(inputs["ws"])))

    def run_into(self, inputs: Inputs, out: int) -> None:
        """Write the images to device memory at the address `out`. They are complete when this returns."""
        self._with_slot(lambda slot: slot.run_into(inputs, len(inputs["ws"]), out))

    def timed_run(self, inputs: Inputs) -> Timings:
        """Run as `run` and time its parts."""
        return self._with_slot(lambda slot: slot.timed_run(inputs, len(inputs["ws"])))

    def layer_times(self, inputs: HostInputs) -> list[tuple[str, float]]:
        """Name and milliseconds of every layer of the engine in one call, in its order, from the library's profiler."""
        times: list[tuple[str, float]] = []
        profiler = _profiler(self._trt, times)
        self._with_slot(lambda slot: slot.profiled_run(inputs, len(inputs["ws"]), profiler))
        return times

    def new_images(self, n: int, spare: int = 0) -> DeviceArray:
        """Device memory for `n` images, followed by room for `spare` more that the array does not show.

        Raises:
            BackendError: The GPU has too little free memory.
        """
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
        """Free all memory on the device and all pinned memory, also after an error of the device.

        No call may be running. Closing twice is harmless.
        """
        with self._slot_change:
            if self._closed:
                return
            self._closed = True
            release(self._driver.cuCtxSetCurrent, self._context)
            if self._kernel_cache is not None:
                self._kernel_cache.save()
            for slot in self._idle_slots:
                slot.close()
            self._idle_slots = []
            self._kernel_cache = self._engine = self._runtime = self._trt = None
            release(self._driver.cuDevicePrimaryCtxRelease, self._gpu)

    def _open(self, engine_file: Path, kernel_file: Path | None, weights: Path | None) -> None:
        trt = self._trt
        log = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(log)
        self._engine = engine = self._runtime.deserialize_cuda_engine(engine_file.read_bytes())
        if engine is None:
            raise BackendError(f"{trt.__name__} {trt.__version__} refuses engine {engine_file}; build it again for this GPU")
        if weights is not None:
            _refit(trt, log, engine, weights)
        self.tensors = [_tensor_spec(trt, engine, engine.get_tensor_name(i)) for i in range(engine.num_io_tensors)]
        names = [tensor.name for tensor in self.tensors]
        if "ws" not in names or "image" not in names:
            raise BundleError(f"engine {engine_file} does not map ws to image")
        self.image = self.tensors[names.index("image")]
        self.ranges = [_batch_range(engine, profile) for profile in range(engine.num_optimization_profiles)]
        if kernel_file is not None:
            self._kernel_cache = KernelCache(trt, engine, kernel_file)
        try:
            self._idle_slots.append(self._new_slot())
        except OutOfMemory:
            raise self._too_little_memory() from None
        self._slot_count = 1

    def _with_slot(self, use: Callable[[ExecutionSlot], Result]) -> Result:
        """Call `use` with an idle slot and the driver's context current in this thread."""
        FORK_GUARD.enter()
        slot = self._take_slot()
        try:
            call(self._driver.cuCtxSetCurrent, self._context)
            return use(slot)
        finally:
            with self._slot_change:
                self._idle_slots.append(slot)
                self._slot_change.notify()
                save, self._kernels_saved = not self._kernels_saved, True
            if save and self._kernel_cache is not None:
                self._kernel_cache.save()  # after the first call, because an application may be killed before it closes

    def _take_slot(self) -> ExecutionSlot:
        """An idle slot, a new one if there are fewer than `concurrency`, or else the next that becomes idle."""
        with self._slot_change:
            if not self._idle_slots and self._slot_count < self.concurrency:
                try:
                    call(self._driver.cuCtxSetCurrent, self._context)
                    self._idle_slots.append(self._new_slot())
                    self._slot_count += 1
                except OutOfMemory:
                    self.concurrency = self._slot_count
            self._slot_change.wait_for(lambda: self._idle_slots)
            return self._idle_slots.pop()

    def _new_slot(self) -> ExecutionSlot:
        if self._kernel_cache is None:
            context = self._engine.create_execution_context()
        else:
            context = self._engine.create_execution_context(self._kernel_cache.config)
        if context is None:
            raise OutOfMemory("no execution context can be made")
        return ExecutionSlot(
            self._driver,
            context,
            self.tensors,
            self.ranges,
            reports_capturable=self._kernel_cache is not None,  # TensorRT-RTX has both, TensorRT neither
            on_capture_failure=lambda reason: note_missing_graph(self.notes, reason),
        )

    def _too_little_memory(self) -> BackendError:
        """The error for an engine that does not fit on the GPU. It names a batch that would, as memory grows with the batch."""
        largest = max(most for _, _, most in self.ranges)
        need = int(self._engine.device_memory_size_v2) + sum(tensor.nbytes(largest) for tensor in self.tensors)
        free, _ = call(self._driver.cuMemGetInfo)
        fits = max(largest * free // max(need, 1), 1)
        return BackendError(
            f"the engine's batch of {largest} needs {need / 2**20:.0f} MiB on the GPU, where {free / 2**20:.0f} are free; "
            f"build one with --batch up to {min(fits, largest)}"
        )


def _tensor_spec(trt: Any, engine: Any, name: str) -> TensorSpec:
    return TensorSpec(
        name,
        engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
        np.dtype(trt.nptype(engine.get_tensor_dtype(name))),
        tuple(int(n) for n in engine.get_tensor_shape(name))[1:],
    )


def _batch_range(engine: Any, profile: int) -> BatchRange:
    least, best, most = (int(shape[0]) for shape in engine.get_tensor_profile_shape("ws", profile))
    return least, best, most


def _profiler(trt: Any, times: list[tuple[str, float]]) -> Any:
    """A profiler of the library that appends name and milliseconds of every layer to `times`."""

    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.append((layer_name, ms))

    return Profiler()


def _refit(trt: Any, log: Any, engine: Any, weights: Path) -> None:
    """Fill an engine that was built without weights from the ONNX network of which it was built."""
    refitter = trt.Refitter(engine, log)
    if not trt.OnnxParserRefitter(refitter, log).refit_from_file(str(weights)) or not refitter.refit_cuda_engine():
        raise BackendError(
            f"{trt.__name__} {trt.__version__} cannot put the weights of {weights.name} into its engine; build it again"
        )
