"""OpenVINO on the CPU. It knows no functions of foreign domains, so the graph is lowered to plain operators first.

Only with fixed shapes does OpenVINO keep everything channels last and fuse what lies between convolutions (up to 2.2 times the
images per second). So there are two networks, for one image and for four, of which a batch takes as many as it needs; that for
four is compiled when it is first used. An engine holds both, in files of their own: the second one's bytes are read, and
compared with `engine.json`, when such a batch comes.
"""

from __future__ import annotations

import importlib.util
import tempfile
import threading
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, BundleError, OutOfMemory, missing_extra
from stylert.core.host import cpu_identity
from stylert.core.progress import Progress
from stylert.runtime.backends.onnxruntime import lacks_memory
from stylert.runtime.batching import batch_chunks
from stylert.runtime.build_options import LATENCY, THROUGHPUT, BuildOptions, only_this_cpu

NAME = "openvino"
EXTRA = "openvino"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
ENGINE_SUFFIX = ".blob"
#: Beside the engine's own file, the network for a single image: those for more images at once.
MORE = {4: "batch4.blob"}
READ_LATER = tuple(MORE.values())
#: Batches that have a network.
SIZES = (1, *MORE)
NEEDS_ENGINE = False
HINTS = (LATENCY, THROUGHPUT)


def available() -> bool:
    return importlib.util.find_spec("openvino") is not None


def unavailable_reason() -> str | None:
    return None if available() else str(missing_extra("OpenVINO", "openvino"))


def version() -> str:
    return str(_openvino().__version__)


def target(options: BuildOptions) -> str:
    only_this_cpu(NAME, options)
    return "cpu"


def machine(options: BuildOptions) -> str:
    return cpu_identity()


def flags(precision: str, options: BuildOptions) -> dict[str, Any]:
    kind = _config(precision, None, LATENCY)["INFERENCE_PRECISION_HINT"]
    found = {"threads": options.threads, "batches": list(SIZES), **({} if kind == "f32" else {"hint": kind})}
    return found if options.hint == LATENCY else found | {"performance": options.hint}


def build(source: Path, precision: str, engine: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
    """Compile `source` for this CPU and write OpenVINO's own blobs: `engine` for one image, and beside it those for more."""
    for batch, file in _files(engine).items():
        file.write_bytes(_compile(source, precision, options.threads, options.hint, batch).export_model().getvalue())
    return {}


def load(
    source: Path,
    precision: str,
    threads: int | None = None,
    built: bool = False,
    hint: str = LATENCY,
    check: Callable[[Path, memoryview], None] | None = None,
) -> OpenVinoSession:
    """Load an ONNX file, or with `built` an engine. Raises BundleError when OpenVINO refuses it.

    `check` gets each of the files in `READ_LATER`, and its bytes, when they are first used: an engine is not loaded without.
    """
    if not built:
        return OpenVinoSession(partial(_compile, source, precision, threads, hint))
    if check is None:
        raise ValueError("an engine's later files need a check")
    # Mapped, not read: the weights stay in the page cache until they are used. Copy on write, as the library asks for
    # memory that it might write to. Both now, so that a build in the meantime changes nothing for this session.
    files = _files(source)
    blobs = {batch: np.memmap(file, np.uint8, "c") for batch, file in files.items()}

    def network(batch: int) -> Any:
        file, blob = files[batch], blobs[batch]
        if file.name in READ_LATER:
            check(file, blob.data)
        return _import(blob, file, precision, threads, hint)

    return OpenVinoSession(network)


class OpenVinoSession:
    """`network` compiles or imports the network for a batch of one of `SIZES`."""

    device = "cpu"

    def __init__(self, network: Callable[[int], Any]) -> None:
        self._network = network  # of an engine, it holds the mapped files, from which compiled networks read their weights
        self._networks: dict[int, Any] = {1: network(1)}
        #: Calls that are worth having under way at once: more than one with the hint for throughput
        self.concurrency = int(self._networks[1].get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._loading = threading.Lock()
        self._local = threading.local()  # a request serves one caller at a time

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        images = []
        for step in batch_chunks(len(next(iter(inputs.values()))), [(size, size, size) for size in SIZES]):
            part = slice(step.first, step.first + step.images)
            images.append(self._infer(step.batch, {name: value[part] for name, value in inputs.items()}))
        return images[0] if len(images) == 1 else np.concatenate(images)

    def _infer(self, batch: int, inputs: dict[str, np.ndarray]) -> np.ndarray:
        requests = self._local.__dict__.setdefault("requests", {})
        if batch not in requests:
            with self._loading:
                if batch not in self._networks:
                    self._networks[batch] = self._network(batch)
                requests[batch] = self._networks[batch].create_infer_request()
        # Run by OpenVINO's own threads: each call of `infer` from one of several of ours leaves memory behind (2026.4, 15 KB a call).
        request = requests.pop(batch)  # back when it is idle, which it is not after an error or an interruption
        try:
            request.start_async(inputs, share_inputs=True)
            request.wait()
        except (MemoryError, RuntimeError) as e:
            if lacks_memory(e):
                raise OutOfMemory("OpenVINO: not enough memory for this batch") from None
            raise
        image = request.get_output_tensor(0).data.copy()
        requests[batch] = request
        return image

    def close(self) -> None:
        self._networks = {}
        self._local = threading.local()
        del self._network


def _files(engine: Path) -> dict[int, Path]:
    return {1: engine} | {batch: engine.with_name(name) for batch, name in MORE.items()}


def _openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise missing_extra("OpenVINO", "openvino") from None
    return openvino


@cache
def _core() -> Any:
    """One for the process. On CPUs with AMX each sets the thread's stack for signals and takes it away when it goes: with two of
    them, the next Ctrl-C would have no stack to run on, and the process would die.
    """
    return _openvino().Core()


def _config(precision: str, threads: int | None, hint: str) -> dict[str, Any]:
    # Float32 is asked for by name: on CPUs with bfloat16 the default would be less exact than the file. Around convolutions in
    # 8 bits bfloat16 is exact enough; where the CPU has none, OpenVINO takes float32.
    kind = "bf16" if precision in ("bf16", "int8") else "f32"
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": kind, "PERFORMANCE_HINT": hint.upper()}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return config


def _compile(source: Path, precision: str, threads: int | None, hint: str, batch: int) -> Any:
    from stylert.runtime.lowering import lower

    core = _core()
    with tempfile.TemporaryDirectory() as folder:
        plain = lower(source, Path(folder) / "plain.onnx", batch)
        try:
            return core.compile_model(core.read_model(plain), "CPU", _config(precision, threads, hint))
        except MemoryError as e:
            raise BackendError(f"not enough memory to compile {source}") from e
        except RuntimeError as e:
            raise BundleError(f"OpenVINO cannot compile {source}: {_last_line(e)}") from None


def _import(blob: np.ndarray, source: Path, precision: str, threads: int | None, hint: str) -> Any:
    ov = _openvino()
    try:
        return _core().import_model(ov.Tensor(blob, shared_memory=True), "CPU", _config(precision, threads, hint))
    except RuntimeError as e:
        raise BundleError(f"OpenVINO cannot load engine {source}: {_last_line(e)}") from None


def _last_line(e: Exception) -> str:
    lines = [line for line in str(e).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(e).__name__
