"""TensorRT-RTX. It builds engines on any machine, also for GPUs that are elsewhere; running them needs the GPU.

It has no plugins, so it gets networks of plain ONNX operators, and its compiler fuses them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylert.core.errors import BackendError, BundleError, InputError, install_command
from stylert.core.files.cache import cache_folder
from stylert.core.files.temporary import temporary_folder
from stylert.core.machine.devices import Gpu, find_gpus
from stylert.core.progress import Progress
from stylert.runtime.backends.base import Backend, BackendFacts, BuiltEngine, LoadOptions
from stylert.runtime.build_options import HARDWARE_COMPATIBLE_FROM, BuildOptions, check_fp8
from stylert.runtime.network_kinds import STYLEGAN1, STYLEGAN2

if TYPE_CHECKING:
    from stylert.runtime.cuda.engine_session import CudaSession


#: GPUs that TensorRT alone builds for: H100, H200 and GH200, then B200 and B300
DATA_CENTER = ("sm_90", "sm_100", "sm_103")
#: The backends of such a GPU
OTHERS = "use tensorrt, torch or onnxruntime-cuda there"


class TensorRtRtx(Backend):
    facts = BackendFacts(
        name="tensorrt-rtx",
        library="TensorRT-RTX",
        install=install_command("tensorrt-rtx"),
        precisions=("fp32", "fp16", "int8", "fp8"),
        engine_suffix=".engine",
        needs_engine=True,
        networks=(STYLEGAN1, STYLEGAN2),
    )

    def available(self) -> bool:
        return importlib.util.find_spec("tensorrt_rtx") is not None

    def unavailable_reason(self) -> str | None:
        if not self.available():
            return str(self.missing_library())
        driver = find_gpus()
        problem = driver.problem or self._refusal(driver.gpus[0])
        return f"{self.name} builds engines here (--target sm_89), but cannot run them: {problem}" if problem else None

    def version(self) -> str:
        return str(self._library().__version__)

    def load_engine(self, engine: BuiltEngine, options: LoadOptions) -> CudaSession:
        """Load an engine on the first GPU. The kernels compiled for that GPU go to the user's cache folder.

        Raises:
            BackendError: There is no GPU, the library does not run on it, or the engine is for another version or device.
        """
        driver = find_gpus()
        if driver.problem:
            raise BackendError(f"{self.name} runs on an NVIDIA GPU, and {driver.problem}")
        if refusal := self._refusal(driver.gpus[0]):
            raise BackendError(refusal)
        from stylert.runtime.cuda.engine_session import CudaSession

        return CudaSession(self._library(), engine.file, cache_folder() / "kernels" / engine.file.parent.name)

    def targets(self) -> list[str]:
        names = [n for n in dir(self._library().ComputeCapability) if n.startswith("SM") and n[2:].isdigit()]
        return [f"sm_{n[2:]}" for n in sorted(names, key=lambda n: int(n[2:]))]

    def target(self, options: BuildOptions) -> str:
        """The architecture of an engine; `ampere-plus` for a hardware-compatible one.

        Raises:
            BackendError: The target is `current`, and there is no GPU, or one for which the library builds nothing.
            InputError: The target is not one of `targets`.
        """
        if options.hardware_compatible:
            if options.target != "current":
                together = ", ".join(self._compatible_architectures())
                raise InputError(f"a hardware-compatible engine is for all of {together}: leave --target out")
            return "ampere-plus"
        if options.target != "current":
            if options.target not in self.targets():
                known = ", ".join(self.targets())
                advice = f"; {OTHERS}" if options.target in DATA_CENTER else ""
                raise InputError(f"{self.name} {self.version()} builds for {known}, not for {options.target}{advice}")
            return options.target
        driver = find_gpus()
        if driver.problem:
            raise BackendError(
                f"{self.name} runs on an NVIDIA GPU, and {driver.problem}; build ahead of time with --target sm_89"
            )
        gpu = driver.gpus[0]
        if refusal := self._refusal(gpu):
            raise BackendError(refusal)
        return gpu.target

    def machine(self, options: BuildOptions) -> str:
        return ""

    def flags(self, precision: str, options: BuildOptions) -> dict[str, Any]:
        if options.plugins:
            raise InputError(f"{self.name} takes no plugins: its compiler fuses the plain ONNX operators")
        if options.stripped:
            raise InputError(f"{self.name} cannot build stripped engines without a GPU: these are for tensorrt")
        architectures = self._compatible_architectures() if options.hardware_compatible else [self.target(options)]
        check_fp8(self.name, precision, architectures)
        return options.gpu_flags(precision) | {"architectures": architectures}

    def build(self, network: Path, precision: str, engine: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
        """Build an engine for the target. Raises as `build_engine_file`."""
        from stylert.runtime.backends.tensorrt_build import build_engine_file
        from stylert.runtime.lowering import lower
        from stylert.runtime.symmetric_steps import symmetric_rewrite

        trt = self._library()
        architectures = self.flags(precision, options)["architectures"]

        def configure(config: Any) -> None:
            config.num_compute_capabilities = len(architectures)
            for i, name in enumerate(architectures):
                config.set_compute_capability(getattr(trt.ComputeCapability, name.replace("sm_", "SM")), i)
            if precision == "fp32":
                config.clear_flag(trt.BuilderFlag.TF32)  # TF32 has too few bits for the accuracy that fp32 promises

        stage = f"{self.name} {precision} {self.target(options)}"
        with temporary_folder("tensorrt") as folder:
            lowered = lower(network, folder / "lowered.onnx", rewrite=symmetric_rewrite(precision))
            try:
                return build_engine_file(trt, lowered, engine, options, configure, progress, stage)
            except BundleError as e:
                raise BundleError(f"{e}; stylert export … --backend {self.name} writes a form that it can parse") from None

    def _refusal(self, gpu: Gpu) -> str | None:
        """Why the library has no engines for a GPU, and which backends have; None if it has some."""
        if gpu.target in self.targets():
            return None
        return f"{self.name} {self.version()} has no engines for {gpu.name} ({gpu.target}); {OTHERS}"

    def _compatible_architectures(self) -> list[str]:
        return [name for name in self.targets() if int(name.removeprefix("sm_")) >= HARDWARE_COMPATIBLE_FROM]

    def _library(self) -> Any:
        try:
            import tensorrt_rtx
        except ImportError as e:
            if not self.available():
                raise self.missing_library() from None
            raise BackendError(f"{self.name} is installed but cannot be imported: {' '.join(str(e).split())}") from None
        return tensorrt_rtx


BACKEND = TensorRtRtx()
