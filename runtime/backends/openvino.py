"""OpenVINO on the CPU. It knows no functions of foreign domains, so the graph is lowered to plain operators first."""

from __future__ import annotations

import importlib.util
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from stylert.runtime.backends.onnxruntime import lacks_memory
from stylert.runtime.build_options import BuildOptions, Progress, only_this_cpu
from stylert.runtime.errors import BackendError, BundleError, OutOfMemory, missing_extra
from stylert.runtime.host import cpu_identity

NAME = "openvino"
EXTRA = "openvino"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
ENGINE_SUFFIX = ".blob"
NEEDS_ENGINE = False


def available() -> bool:
    return importlib.util.find_spec("openvino") is not None


def obstacle() -> str | None:
    return None if available() else str(missing_extra("OpenVINO", "openvino"))


def version() -> str:
    return str(_openvino().__version__)


def target(options: BuildOptions) -> str:
    only_this_cpu(NAME, options)
    return "cpu"


def machine(options: BuildOptions) -> str:
    return cpu_identity()


def flags(precision: str, options: BuildOptions) -> dict[str, Any]:
    hint = _config(precision, None)["INFERENCE_PRECISION_HINT"]
    return {"threads": options.threads, **({} if hint == "f32" else {"hint": hint})}


def build(source: Path, precision: str, engine: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
    """Compile `source` for this CPU and write OpenVINO's own blob to `engine`."""
    compiled = _compile(source, precision, options.threads)
    engine.write_bytes(compiled.export_model().getvalue())
    return {}


def load(source: Path, precision: str, threads: int | None = None, built: bool = False) -> OpenVinoSession:
    """Load an ONNX file, or with `built` a blob. Raises BundleError when OpenVINO refuses it."""
    if not built:
        return OpenVinoSession(_compile(source, precision, threads))
    ov = _openvino()
    try:
        # Mapped, not read: the weights stay in the page cache until they are used. Copy on write, as the library asks for
        # memory that it might write to.
        blob = np.memmap(source, np.uint8, "c")
        return OpenVinoSession(
            ov.Core().import_model(ov.Tensor(blob, shared_memory=True), "CPU", _config(precision, threads)), blob
        )
    except RuntimeError as e:
        raise BundleError(f"OpenVINO cannot load engine {source}: {_last_line(e)}") from None


class OpenVinoSession:
    def __init__(self, compiled: Any, memory: np.ndarray | None = None) -> None:
        self._compiled, self._memory = compiled, memory  # the compiled network reads its weights from there
        self._local = threading.local()  # a request serves one caller at a time

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        try:
            return self._local.request.infer(inputs, share_inputs=True)[0].copy()
        except (MemoryError, RuntimeError) as e:
            if lacks_memory(e):
                del self._local.request  # what it holds of the batch that failed
                raise OutOfMemory("OpenVINO: not enough memory for this batch") from None
            raise

    def close(self) -> None:
        self._compiled = None
        self._local = threading.local()
        self._memory = None


def _openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise missing_extra("OpenVINO", "openvino") from None
    return openvino


def _config(precision: str, threads: int | None) -> dict[str, Any]:
    # Float32 is asked for by name: on CPUs with bfloat16 the default would be less exact than the file. Around convolutions in
    # 8 bits bfloat16 is exact enough; where the CPU has none, OpenVINO takes float32.
    hint = "bf16" if precision in ("bf16", "int8") else "f32"
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return config


def _compile(source: Path, precision: str, threads: int | None) -> Any:
    from stylert.runtime.lowering import lower

    ov = _openvino()
    with tempfile.TemporaryDirectory() as folder:
        plain = lower(source, Path(folder) / "plain.onnx")
        try:
            return ov.Core().compile_model(ov.Core().read_model(plain), "CPU", _config(precision, threads))
        except MemoryError as e:
            raise BackendError(f"not enough memory to compile {source}") from e
        except RuntimeError as e:
            raise BundleError(f"OpenVINO cannot compile {source}: {_last_line(e)}") from None


def _last_line(e: Exception) -> str:
    lines = [line for line in str(e).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(e).__name__
