"""TensorRT, from 10.3 on, as in JetPack 6. It chooses kernels by timing them, so it builds engines only on the GPU that runs them.

Version-compatible engines also run on the lean runtime (`tensorrt-lean`), which cannot build.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylert.core.errors import BackendError, BundleError, InputError, OutputError, install_command
from stylert.core.files.atomic import atomic_file
from stylert.core.files.cache import cache_folder
from stylert.core.files.temporary import temporary_folder
from stylert.core.machine.devices import Gpu, find_gpus
from stylert.core.progress import Progress
from stylert.runtime.backends.base import Backend, BackendFacts, BuiltEngine, LoadOptions
from stylert.runtime.build_options import BuildOptions, check_fp8
from stylert.runtime.network_files import checked_model

if TYPE_CHECKING:
    from stylert.runtime.cuda.engine_session import CudaSession

FULL, LEAN = "tensorrt", "tensorrt_lean"
#: The first release that was compared with the calls here. `plugins.tensorrt` needs a later one.
OLDEST_VERSION = (10, 3)


class TensorRt(Backend):
    facts = BackendFacts(
        name="tensorrt",
        library="TensorRT",
        install=install_command("tensorrt"),
        precisions=("fp32", "fp16", "int8", "fp8"),
        engine_suffix=".engine",
        needs_engine=True,
    )

    def available(self) -> bool:
        return _installed(FULL) or _installed(LEAN)

    def unavailable_reason(self) -> str | None:
        if not self.available():
            return str(self.missing_library())
        problem = find_gpus().problem
        return f"{self.name} builds and runs on an NVIDIA GPU, and {problem}" if problem else None

    def version(self) -> str:
        return str(self._runtime(lean=False).__version__)

    def load_engine(self, engine: BuiltEngine, options: LoadOptions) -> CudaSession:
        """Load an engine on the first GPU.

        Raises:
            BackendError: There is no GPU, or the engine is for another version or device.
        """
        from stylert.runtime.cuda.engine_session import CudaSession
        from stylert.runtime.lowering import lower

        self._gpu()
        trt = self._runtime(lean=engine.version_compatible)
        if engine.weights is None:
            return CudaSession(trt, engine.file)
        with temporary_folder("tensorrt") as folder:
            return CudaSession(self._builder(), engine.file, weights=lower(engine.weights, folder / "lowered.onnx"))

    def target(self, options: BuildOptions) -> str:
        """The architecture of this machine's GPU.

        Raises:
            BackendError: There is no GPU.
            InputError: The options ask for another architecture.
        """
        architecture = self._gpu().target
        if options.target not in ("current", architecture):
            raise InputError(
                f"{self.name} builds for this machine's GPU, {architecture}; to build for {options.target}, use tensorrt-rtx"
            )
        return architecture

    def machine(self, options: BuildOptions) -> str:
        """The GPU's model. A hardware-compatible engine runs on every model."""
        return "" if options.hardware_compatible else self._gpu().name

    def flags(self, precision: str, options: BuildOptions) -> dict[str, Any]:
        check_fp8(self.name, precision, [self._gpu().target])
        flags = options.gpu_flags(precision) | {"stripped": options.stripped, "plugins": options.plugins}
        if options.plugins:
            _check_plugin_options(precision, options)
            flags["kernels"] = _kernels_digest()
        return flags

    def build(self, network: Path, precision: str, engine: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
        """Build an engine for this machine's GPU. Raises as `build_engine_file`.

        The measured times go to the user's cache folder, so the next build measures only what is new.
        """
        from stylert.runtime.backends.tensorrt_build import build_engine_file
        from stylert.runtime.lowering import lower
        from stylert.runtime.symmetric_steps import symmetric_rewrite

        trt = self._builder()
        architecture = self.target(options)
        # TensorRT names the timings of a plugin by its node, so those of other kernels must not be taken for them.
        of_kernels = f"-{_kernels_digest()}" if options.plugins else ""
        cache_file = cache_folder() / f"tensorrt-{self.version()}-{architecture}{of_kernels}.timing"
        timing_caches = []

        def configure(config: Any) -> None:
            timing_caches.append(_timing_cache(config, cache_file))
            if precision == "fp32":
                config.clear_flag(trt.BuilderFlag.TF32)  # TF32 has too few bits for the accuracy that fp32 promises
            if options.stripped:
                config.set_flag(trt.BuilderFlag.STRIP_PLAN)
                # Loading puts the same weights back, so TensorRT may choose kernels by their values.
                config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
            if options.hardware_compatible:
                config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS

        stage = f"{self.name} {precision} {architecture}"
        with temporary_folder("tensorrt") as folder:
            if options.plugins:
                self._register_plugins(architecture)
                file = _prepared_for_plugins(network, folder / "plugins.onnx")
                creation_flags = 1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)
            else:
                file, creation_flags = lower(network, folder / "lowered.onnx", rewrite=symmetric_rewrite(precision)), 0
            facts = build_engine_file(trt, file, engine, options, configure, progress, stage, creation_flags)
        _save_timings(timing_caches[0], cache_file)
        return facts

    def _register_plugins(self, architecture: str) -> None:
        """Register stylert's kernels, compiled ahead of time: the engine then runs without Python and Triton."""
        from stylert.plugins import tensorrt as plugins

        try:
            plugins.register(architecture)
        except ImportError as e:
            raise BackendError(" ".join(str(e).split())) from None

    def _gpu(self) -> Gpu:
        driver = find_gpus()
        if driver.problem:
            raise BackendError(f"{self.name} builds and runs on an NVIDIA GPU, and {driver.problem}")
        return driver.gpus[0]

    def _runtime(self, lean: bool) -> Any:
        """The module that runs engines: the lean runtime if it is wanted or alone installed, else TensorRT."""
        if _installed(LEAN) and (lean or not _installed(FULL)):
            return self._import(LEAN)
        return self._builder()

    def _builder(self) -> Any:
        """The module that builds engines: TensorRT."""
        if not _installed(FULL):
            raise self.missing_library()
        return self._import(FULL)

    def _import(self, module: str) -> Any:
        try:
            library = importlib.import_module(module)
        except ImportError as e:
            raise BackendError(f"{self.name} is installed but cannot be imported: {' '.join(str(e).split())}") from None
        version = tuple(int(n) for n in library.__version__.split(".")[:2])
        if version < OLDEST_VERSION:
            needed = ".".join(map(str, OLDEST_VERSION))
            raise BackendError(f"{self.name} {library.__version__} is too old: stylert needs {needed} or later")
        return library


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _check_plugin_options(precision: str, options: BuildOptions) -> None:
    """Raise InputError for options that no engine with plugins can follow."""
    if precision not in ("fp32", "fp16"):
        raise InputError(f"--plugins is for fp32 and fp16: networks in {precision} have no nodes of stylert's operators")
    if options.stripped:
        raise InputError("--plugins cannot build without weights: the kernels read them in a form that no bundle file holds")
    if options.hardware_compatible:
        raise InputError("--plugins builds for this GPU alone: the code of the kernels is for one architecture")


def _kernels_digest() -> str:
    from stylert.plugins.tensorrt import kernels_digest

    try:
        return kernels_digest()
    except ImportError as e:
        raise BackendError(str(e)) from None


def _prepared_for_plugins(source: Path, destination: Path) -> Path:
    """The network with folded weights, for the plugins.

    Raises:
        BundleError: It cannot be read, has a node that our operators do not define, or has none of them.
    """
    import onnx

    from stylert.plugins.tensorrt_network import operator_nodes, prepare_for_plugins

    model = checked_model(source)
    if not operator_nodes(model):
        raise BundleError(f"{source} has no nodes of stylert's operators, so plugins would change nothing: leave --plugins out")
    prepare_for_plugins(model)
    onnx.save(model, destination)
    return destination


def _timing_cache(config: Any, file: Path) -> Any:
    """The timings in a file, set in the builder configuration. A file that is damaged, unreadable or of another GPU counts as empty."""
    try:
        timings = file.read_bytes()
    except OSError:
        timings = b""
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _save_timings(cache: Any, file: Path) -> None:
    try:
        with atomic_file(file) as temporary:
            temporary.write_bytes(cache.serialize())
    except OutputError:
        pass  # the engine is good; only the next build has to measure again


BACKEND = TensorRt()
