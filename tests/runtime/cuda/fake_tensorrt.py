"""Fakes of TensorRT and TensorRT-RTX, with an engine that runs on the fake driver."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.runtime.cuda.fake_driver import NUM_WS, SIDE, W_DIM, FakeDriver

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
