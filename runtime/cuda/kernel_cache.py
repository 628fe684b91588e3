"""Kernels that TensorRT-RTX compiles when an engine first runs, kept in the user's cache folder for the next start.

An engine built ahead of time still compiles for the very GPU that it meets. The library checks by itself that a cache belongs
to this version, driver and GPU, and refuses others; so a cache that is wrong in any way only means compiling again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stylert.core.atomic import atomic_file
from stylert.core.errors import OutputError


class KernelCache:
    """How an engine's contexts are to be made, and the kernels that they share.

    Where the library has no such cache, as TensorRT, `config` is None and `save` does nothing.
    """

    def __init__(self, trt: Any, engine: Any, file: Path | None) -> None:
        self._file, self._cache, self._loaded = file, None, b""
        self.config: Any = None
        if file is None or not hasattr(trt, "IRuntimeCache"):
            return
        self.config = engine.create_runtime_config()
        # A captured graph keeps the kernels that it met, so they must be those of its shapes and not the stand-ins.
        self.config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._cache = self.config.create_runtime_cache()
        try:
            saved = file.read_bytes()
        except OSError:
            saved = b""
        if saved and self._cache.deserialize(saved):
            self._loaded = saved
        self.config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Keep what was compiled since. A folder that cannot be written costs only time at the next start."""
        if self._cache is None or self._file is None:
            return
        kernels = bytes(self._cache.serialize())
        if kernels and kernels != self._loaded:
            try:
                with atomic_file(self._file) as temporary:
                    temporary.write_bytes(kernels)
            except OutputError:
                return
            self._loaded = kernels
