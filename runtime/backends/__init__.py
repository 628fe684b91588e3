"""Backends: one module each, behind one small protocol.

A backend module says what it is in `NAME`, `EXTRA` (what to install), `PRECISIONS`, `ENGINE_SUFFIX` (None where nothing is
built) and `NEEDS_ENGINE` (whether it runs built engines only, which `load_engine` then opens), and `HINTS` where it can be told
what to be best at, which `load` and `build` then take; `available()` whether its
library is there to build with, `unavailable_reason()` why it cannot run here, or None; `version()` is the library's. `load()` opens the
bundle's own file, or an engine, as a `Session`. A backend that builds also has `target()`, `machine()` and `flags()`, on which an
engine of it depends, and `build()`, which writes one; files of it named in `READ_LATER` are compared with their sha256 by `load()`
itself, when they are first read. Modules import their library inside functions, so that listing them
imports nothing heavy.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from stylert.core.devices import find_gpus
from stylert.core.errors import InputError

#: Backend name to module; the default first.
BACKENDS = {
    "onnxruntime": "stylert.runtime.backends.onnxruntime",
    "onnxruntime-cuda": "stylert.runtime.backends.onnxruntime_cuda",
    "openvino": "stylert.runtime.backends.openvino",
    "tensorrt": "stylert.runtime.backends.tensorrt",
    "tensorrt-rtx": "stylert.runtime.backends.tensorrt_rtx",
    "torch": "stylert.runtime.backends.torch",
}


def backend(name: str) -> ModuleType:
    """The module of a backend. Raises InputError for an unknown name."""
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    return importlib.import_module(BACKENDS[name])


def available_backends() -> list[str]:
    """Names of the backends that can run here: library installed, and the device that it needs present.

    PyTorch is among them where a GPU is. On a CPU it is the reference, and runs where it is asked for by name.
    """
    return [n for n in BACKENDS if backend(n).unavailable_reason() is None and (n != "torch" or not find_gpus().problem)]


def engine_file(engine: Path) -> Path:
    """The one network file of an engine folder, whatever its suffix."""
    return next(p for p in sorted(engine.iterdir()) if p.stem == "engine" and p.suffix != ".json")
