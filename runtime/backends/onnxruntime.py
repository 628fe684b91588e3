"""ONNX Runtime on the CPU: the backend that every installation has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stylert.runtime.errors import BackendError, BundleError

NAME = "onnxruntime"
EXTRA = None
PRECISIONS = ("fp32", "int8")
ENGINE_SUFFIX = ".onnx"


def available() -> bool:
    return True


def version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def target() -> str:
    """What an engine built here is good for."""
    return "cpu"


def build(source: Path, precision: str, engine: Path, threads: int | None = None) -> None:
    """Optimise `source` for this CPU (fusion, constant folding, blocked layouts) and write the result to `engine`."""
    options = _options(threads)
    options.optimized_model_filepath = str(engine)
    _session(source, options)


def load(source: Path, precision: str, threads: int | None = None, built: bool = False) -> OrtSession:
    """Load an ONNX file, or with `built` an engine that was optimised before.

    Raises BundleError when the file is not a network that ONNX Runtime accepts.
    """
    import onnxruntime as ort

    options = _options(threads)
    if built:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return OrtSession(_session(source, options))


class OrtSession:
    def __init__(self, session: Any) -> None:
        self._session = session
        self._output = session.get_outputs()[0].name

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._session.run([self._output], inputs)[0]

    def close(self) -> None:
        self._session = None


def _options(threads: int | None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _session(source: Path, options: Any) -> Any:
    import onnxruntime as ort

    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except MemoryError as e:
        raise BackendError(f"not enough memory to load {source}") from e
    except Exception as e:  # ONNX Runtime's exceptions share no public base class
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise BundleError(f"ONNX Runtime cannot load {source}: {first}") from None
