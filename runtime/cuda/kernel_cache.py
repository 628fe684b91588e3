"""The file that keeps the kernels that TensorRT-RTX compiles when an engine first runs on a GPU.

An engine that was built ahead of time still compiles kernels for the GPU on which it runs. The library itself checks that a
cache fits its version, the driver and the GPU, and ignores any other. An invalid cache only costs the compilation again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stylert.core.errors import BackendError, OutputError
from stylert.core.files.atomic import atomic_file
from stylert.core.files.inputs import read_file

#: Bytes of a cache, at most.
MAX_BYTES = 2**30


class KernelCache:
    """The compiled kernels of one engine, shared by its execution contexts.

    Attributes:
        config: The configuration with which the engine's execution contexts are to be created.
    """

    def __init__(self, trt: Any, engine: Any, file: Path) -> None:
        """Read the kernels of `file`, if it exists. `trt` is the TensorRT-RTX module."""
        self._file = file
        self.config = engine.create_runtime_config()
        # A captured graph keeps the kernels with which it was captured. EAGER compiles those of its shapes at once.
        self.config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._cache = self.config.create_runtime_cache()
        try:
            saved = read_file(file, BackendError, MAX_BYTES)
        except BackendError:
            saved = b""
        accepted = bool(saved) and self._cache.deserialize(saved)
        self._saved = saved if accepted else b""
        self.config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write the kernels, if there are new ones. Never raises: without them only the next start is slower."""
        try:
            kernels = bytes(self._cache.serialize() or b"")
        except Exception:  # the library's exceptions share no public base class
            return
        if not kernels or kernels == self._saved:
            return
        try:
            with atomic_file(self._file) as temporary:
                temporary.write_bytes(kernels)
        except OutputError:
            return
        self._saved = kernels
