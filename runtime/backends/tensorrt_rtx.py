"""TensorRT-RTX. It compiles ahead of time on any machine, for GPUs that are not there; running needs GPU and driver.

It has no plugins, so it gets the lowered graph, and its compiler fuses what the operators' functions spell out.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylert.core.cache import cache_folder
from stylert.core.devices import find_gpus
from stylert.core.errors import BackendError, BundleError, InputError, missing_extra
from stylert.core.progress import Progress
from stylert.runtime.build_options import BuildOptions, check_fp8

if TYPE_CHECKING:
    from stylert.runtime.cuda.session import CudaSession

NAME = "tensorrt-rtx"
EXTRA = "tensorrt-rtx"
PRECISIONS = ("fp32", "fp16", "int8", "fp8")
ENGINE_SUFFIX = ".engine"
NEEDS_ENGINE = True


def available() -> bool:
    return importlib.util.find_spec("tensorrt_rtx") is not None


def unavailable_reason() -> str | None:
    if not available():
        return str(missing_extra("TensorRT-RTX", EXTRA))
    problem = find_gpus().problem
    return f"{NAME} builds engines here (--target sm_89), but cannot run them: {problem}" if problem else None


def version() -> str:
    return str(_library().__version__)


def targets() -> list[str]:
    """The architectures that this version compiles for."""
    names = [n for n in dir(_library().ComputeCapability) if n.startswith("SM") and n[2:].isdigit()]
    return [f"sm_{n[2:]}" for n in sorted(names, key=lambda n: int(n[2:]))]


def target(options: BuildOptions) -> str:
    """The architecture that an engine is built for; `current` is the first GPU's, `ampere-plus` a hardware-compatible one's.

    Raises BackendError when `current` has no GPU to mean, InputError for an architecture that is not in `targets`.
    """
    if options.hardware_compatible:
        if options.target != "current":
            raise InputError(f"a hardware-compatible engine is for {', '.join(_compatible())} at once: leave --target out")
        return "ampere-plus"
    if options.target != "current":
        if options.target not in targets():
            raise InputError(f"{NAME} {version()} builds for {', '.join(targets())}, not for {options.target}")
        return options.target
    driver = find_gpus()
    if driver.problem:
        raise BackendError(f"{NAME} runs on an NVIDIA GPU, and {driver.problem}; build ahead of time with --target sm_89")
    return driver.gpus[0].target


def machine(options: BuildOptions) -> str:
    return ""  # an engine serves every GPU of its architecture


def flags(precision: str, options: BuildOptions) -> dict[str, Any]:
    if options.plugins:
        raise InputError(f"{NAME} takes no plugins: its compiler fuses the plain form of the operators")
    if options.stripped:
        raise InputError(f"{NAME} does not build without weights where no GPU is: stripped engines are for tensorrt")
    architectures = _compatible() if options.hardware_compatible else [target(options)]
    check_fp8(NAME, precision, architectures)
    return options.gpu_flags(precision) | {"architectures": architectures}


def _compatible() -> list[str]:
    """The architectures of a hardware-compatible engine: those from Ampere on."""
    return [name for name in targets() if int(name.removeprefix("sm_")) >= 80]


def build(source: Path, precision: str, engine: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
    """Compile `source` for the target into `engine`; the kernels and sizes. Raises as `build_engine_file`."""
    from stylert.runtime.backends.tensorrt_build import build_engine_file
    from stylert.runtime.lowering import lower

    trt = _library()
    architecture = target(options)

    def configure(config: Any) -> None:
        architectures = flags(precision, options)["architectures"]
        config.num_compute_capabilities = len(architectures)
        for i, name in enumerate(architectures):
            config.set_compute_capability(getattr(trt.ComputeCapability, name.replace("sm_", "SM")), i)
        if precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)  # its ten bits of mantissa would not keep what fp32 promises

    with tempfile.TemporaryDirectory() as folder:
        plain = lower(source, Path(folder) / "plain.onnx")
        stage = f"{NAME} {precision} {architecture}"
        try:
            return build_engine_file(trt, plain, engine, options, configure, progress, stage)
        except BundleError as e:
            raise BundleError(f"{e}; stylert export … --backend {NAME} writes a form that can be") from None


def load(source: Path, precision: str, threads: int | None = None, built: bool = False) -> CudaSession:
    """Raise BackendError: only built engines run."""
    raise BackendError(f"{NAME} runs built engines only: stylert build BUNDLE --backend {NAME}")


def load_engine(engine: Path, weights: Path | None, version_compatible: bool) -> CudaSession:
    """Open a built engine on the first GPU. What it compiles for that GPU is kept in the user's cache folder.

    Raises BackendError without a GPU, or for an engine of another version or device.
    """
    problem = find_gpus().problem
    if problem:
        raise BackendError(f"{NAME} runs on an NVIDIA GPU, and {problem}")
    from stylert.runtime.cuda.session import CudaSession

    return CudaSession(_library(), engine, cache_folder() / "kernels" / engine.parent.name)


def _library() -> Any:
    try:
        import tensorrt_rtx
    except ImportError as e:
        raise _cannot_import(e) from None
    return tensorrt_rtx


def _cannot_import(e: ImportError) -> BackendError:
    if not available():
        return missing_extra("TensorRT-RTX", EXTRA)
    return BackendError(f"{NAME} is installed but does not import: {' '.join(str(e).split())}")
