"""ONNX Runtime on the CPU: the backend that every installation has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, BundleError, OutOfMemory, OutputError
from stylert.core.host import cpu_identity
from stylert.core.progress import Progress
from stylert.runtime.build_options import BuildOptions, only_this_cpu

NAME = "onnxruntime"
EXTRA = None
#: fp8 is computed in float32 between its roundings: to verify what a GPU will make, not to be fast.
PRECISIONS = ("fp32", "fp16", "int8", "fp8")
ENGINE_SUFFIX = ".onnx"
NEEDS_ENGINE = False
#: Weights of an engine lie in a file of their own, which loading maps into memory instead of reading it.
WEIGHTS_FILE = "weights.bin"
MIN_WEIGHT_BYTES = 1024


def available() -> bool:
    return True


def unavailable_reason() -> str | None:
    return None


def version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def target(options: BuildOptions) -> str:
    """What an engine built with these options is good for."""
    only_this_cpu(NAME, options)
    return "cpu"


def machine(options: BuildOptions) -> str:
    return cpu_identity()


def flags(precision: str, options: BuildOptions) -> dict[str, Any]:
    return {"threads": options.threads}


def build(source: Path, precision: str, engine: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
    """Optimise `source` for this CPU (fusion, constant folding, blocked layouts) into `engine` and, beside it, its weights."""
    chosen = session_options(options.threads)
    chosen.optimized_model_filepath = str(engine)
    external = "session.optimized_model_external_initializers_"
    chosen.add_session_config_entry(f"{external}file_name", WEIGHTS_FILE)
    chosen.add_session_config_entry(f"{external}min_size_in_bytes", str(MIN_WEIGHT_BYTES))
    open_session(source, chosen)
    return {}


def load(source: Path, precision: str, threads: int | None = None, built: bool = False) -> OrtSession:
    """Load an ONNX file, or with `built` an engine that was optimised before.

    Raises BundleError when the file is not a network that ONNX Runtime accepts.
    """
    import onnxruntime as ort

    options = session_options(threads)
    if built:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return OrtSession(open_session(source, options))


class OrtSession:
    device = "cpu"

    def __init__(self, session: Any) -> None:
        self._session = session
        self._output = session.get_outputs()[0].name

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        try:
            return self._session.run([self._output], inputs)[0]
        except Exception as e:  # ONNX Runtime's exceptions share no public base class
            if lacks_memory(e):
                raise OutOfMemory("ONNX Runtime: not enough memory for this batch") from None
            raise

    def close(self) -> None:
        self._session = None


def lacks_memory(e: Exception) -> bool:
    """Whether an exception of a library means that an allocation failed. None of them has a type of its own for it."""
    return isinstance(e, MemoryError) or "alloc" in str(e)


def session_options(threads: int | None) -> Any:
    """Quiet, and with the asked-for number of threads."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(source: Path, options: Any, providers: Sequence[Any] = ("CPUExecutionProvider",)) -> Any:
    """A session of ONNX Runtime. Raises BundleError for a file that it refuses, OutputError where an optimised one cannot be written."""
    import onnxruntime as ort

    try:
        return ort.InferenceSession(source, options, providers=list(providers))
    except MemoryError as e:
        raise BackendError(f"not enough memory to load {source}") from e
    except Exception as e:  # ONNX Runtime's exceptions share no public base class
        first = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        if "serialization failed" in first or "Failed to write" in first:  # it blames the network for a full disk
            raise OutputError(f"cannot write {options.optimized_model_filepath}: is the disk full?") from None
        raise BundleError(f"ONNX Runtime cannot load {source}: {first}") from None
