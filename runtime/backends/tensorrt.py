"""TensorRT 10.15 and later, and 11. It times its kernels on the GPU here, so it builds and runs only where one is.

A version-compatible engine runs on the lean runtime alone (`tensorrt-lean`), which cannot build.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylert.core.atomic import atomic_file
from stylert.core.cache import cache_folder
from stylert.core.devices import Gpu, find_gpus
from stylert.core.errors import BackendError, InputError, OutputError, missing_extra
from stylert.core.progress import Progress
from stylert.runtime.build_options import BuildOptions, check_fp8

if TYPE_CHECKING:
    from stylert.runtime.cuda.session import CudaSession

NAME = "tensorrt"
EXTRA = "tensorrt"
PRECISIONS = ("fp32", "fp16", "int8", "fp8")
ENGINE_SUFFIX = ".engine"
NEEDS_ENGINE = True
OLDEST = (10, 15)
LEAN = "tensorrt_lean"


def available() -> bool:
    return any(importlib.util.find_spec(name) is not None for name in ("tensorrt", LEAN))


def unavailable_reason() -> str | None:
    if not available():
        return str(missing_extra("TensorRT", EXTRA))
    problem = find_gpus().problem
    return f"{NAME} builds and runs on an NVIDIA GPU, and {problem}" if problem else None


def version() -> str:
    return str(_runtime_library(lean=False).__version__)


def target(options: BuildOptions) -> str:
    """The architecture of the GPU here. Raises BackendError without one, InputError when another one is asked for."""
    here = _gpu().target
    if options.target not in ("current", here):
        raise InputError(f"{NAME} builds for the GPU here, {here}; ahead of time for {options.target} builds tensorrt-rtx")
    return here


def machine(options: BuildOptions) -> str:
    """Kernels are chosen by timing, so an engine belongs to one model of GPU, unless it is to be compatible."""
    return "" if options.hardware_compatible else _gpu().name


def flags(precision: str, options: BuildOptions) -> dict[str, Any]:
    check_fp8(NAME, precision, [_gpu().target])
    return options.gpu_flags(precision) | {
        "stripped": options.stripped,
        "plugins": options.plugins,
    }


def build(source: Path, precision: str, engine: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
    """Compile `source` for the GPU here into `engine`; the kernels and sizes. Raises as `build_engine_file`.

    Timings are kept in the user's cache folder, so that the next build measures only what is new.
    """
    from stylert.runtime.backends.tensorrt_build import build_engine_file
    from stylert.runtime.lowering import lower

    trt = _library()
    architecture = target(options)
    cache_file = cache_folder() / f"tensorrt-{version()}-{architecture}.timing"
    caches = []

    def configure(config: Any) -> None:
        cache = config.create_timing_cache(cache_file.read_bytes() if cache_file.is_file() else b"")
        if cache is None or not config.set_timing_cache(cache, False):  # damaged, or of another GPU: measured again
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
        caches.append(cache)
        if precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)  # its ten bits of mantissa would not keep what fp32 promises
        if options.stripped:
            config.set_flag(trt.BuilderFlag.STRIP_PLAN)
            config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)  # the same weights come back, so nothing need be slower
        if options.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS

    stage = f"{NAME} {precision} {architecture}"
    with tempfile.TemporaryDirectory() as folder:
        if options.plugins:
            _register_plugins(architecture)
            network, creation = source, 1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)
        else:
            network, creation = lower(source, Path(folder) / "plain.onnx"), 0
        facts = build_engine_file(trt, network, engine, options, configure, progress, stage, creation)
    try:
        with atomic_file(cache_file) as temporary:
            temporary.write_bytes(caches[0].serialize())
    except OutputError:
        pass  # the next build measures again; this engine is good
    return facts


def load(source: Path, precision: str, threads: int | None = None, built: bool = False) -> CudaSession:
    """Raise BackendError: only built engines run."""
    raise BackendError(f"{NAME} runs built engines only: stylert build BUNDLE --backend {NAME}")


def load_engine(engine: Path, weights: Path | None, version_compatible: bool) -> CudaSession:
    """Open a built engine on the first GPU; one without its weights takes them from the network `weights`.

    Raises BackendError without a GPU, or for an engine of another version or device.
    """
    from stylert.runtime.cuda.session import CudaSession
    from stylert.runtime.lowering import lower

    _gpu()
    trt = _runtime_library(lean=version_compatible)
    if weights is None:
        return CudaSession(trt, engine)
    with tempfile.TemporaryDirectory() as folder:
        return CudaSession(_library(), engine, weights=lower(weights, Path(folder) / "plain.onnx"))


def _register_plugins(architecture: str) -> None:
    """Kernels compiled ahead of time, so that the engine needs neither Python nor Triton when it runs."""
    from stylert.plugins import tensorrt as plugins

    try:
        plugins.register(architecture)
    except ImportError as e:
        raise BackendError(" ".join(str(e).split())) from None


def _gpu() -> Gpu:
    driver = find_gpus()
    if driver.problem:
        raise BackendError(f"{NAME} builds and runs on an NVIDIA GPU, and {driver.problem}")
    return driver.gpus[0]


def _runtime_library(lean: bool) -> Any:
    """What runs an engine: TensorRT, or the lean runtime where that is wanted, or is all there is."""
    if importlib.util.find_spec(LEAN) is not None and (lean or importlib.util.find_spec("tensorrt") is None):
        return _import(LEAN)
    return _library()


def _library() -> Any:
    """TensorRT itself, which builds."""
    if importlib.util.find_spec("tensorrt") is None:
        raise missing_extra("TensorRT", EXTRA)
    return _import("tensorrt")


def _import(name: str) -> Any:
    try:
        library = importlib.import_module(name)
    except ImportError as e:
        raise BackendError(f"{NAME} is installed but does not import: {' '.join(str(e).split())}") from None
    found = tuple(int(n) for n in library.__version__.split(".")[:2])
    if found < OLDEST:
        raise BackendError(f"{NAME} {library.__version__} is too old: stylert needs {'.'.join(map(str, OLDEST))} or later")
    return library
