"""Builds a TensorRT or TensorRT-RTX engine from an ONNX file. Both libraries have the same Python API.

Networks are strongly typed: their precision is in the file. The table of kernels comes from the builder's log, which
needs no driver and no GPU. The engine inspector needs both, so it is used only if the log has no table.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stylert.core.errors import BackendError, BundleError
from stylert.core.progress import Progress
from stylert.runtime.backends.kernel_table import LAYER, layer_table
from stylert.runtime.batching import BatchRange
from stylert.runtime.build_options import BuildOptions


def build_engine_file(
    trt: Any,
    network_file: Path,
    engine: Path,
    options: BuildOptions,
    configure: Callable[[Any], None],
    progress: Progress,
    stage: str,
    creation_flags: int = 0,
) -> dict[str, Any]:
    """Build an engine with one optimisation profile for each batch range.

    Args:
        trt: The module of TensorRT or TensorRT-RTX.
        network_file: The ONNX file to read.
        engine: The file to write.
        options: The batch ranges, the builder level and version compatibility are read here.
        configure: Sets the library's own options on the builder configuration.
        progress: Gets `stage` and the percentage done.
        stage: The stage's name, for progress and errors.
        creation_flags: Flags of the network definition, besides strong typing.

    Returns:
        The table of kernels, as `kernel_table.layer_table`.

    Raises:
        BundleError: The parser refuses the network.
        BackendError: The compiler refuses the network.
        KeyboardInterrupt: The user pressed Ctrl-C. The builder has stopped by then.
    """
    stop = threading.Event()
    monitor = _progress_monitor(trt, stop, lambda done: progress(stage, done, 100))

    def build() -> tuple[Any, Any]:
        log = _log(trt)
        builder = trt.Builder(log)
        network = builder.create_network(creation_flags | 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(network_file)):
            reason = parser.get_error(0).desc() if parser.num_errors else log.first_error()
            raise BundleError(f"{stage}: the network cannot be parsed: {_one_line(reason)}")
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options.level is not None:
            config.builder_optimization_level = options.level
        for batch in options.profiles:
            config.add_optimization_profile(_profile(builder, network, batch))
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            # By default the engine would contain a library, and loading would run it. A bundle must not contain code.
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        configure(config)
        config.progress_monitor = monitor
        return log, None if stop.is_set() else builder.build_serialized_network(network, config)

    log, plan = _run_in_thread(build, stop)
    if monitor.error is not None:
        raise monitor.error
    if plan is None:
        raise BackendError(f"{stage}: the network cannot be compiled: {_one_line(log.first_error())}")
    engine.write_bytes(plan)
    progress(stage, 100, 100)
    profiles = options.profiles
    return kernel_facts(trt, log, plan, min(range(len(profiles)), key=lambda i: profiles[i]))


def kernel_facts(trt: Any, log: Any, plan: Any, batch_range: int = 0) -> dict[str, Any]:
    """The table of kernels from the builder's log, or from the engine inspector if the log has none."""
    text = log.text()
    if not LAYER.search(text):
        text = f"{text}\n{_inspected(trt, log, plan)}"
    return layer_table(text, batch_range)


def _run_in_thread(build: Callable[[], Any], stop: threading.Event) -> Any:
    """Run `build` in its own thread. Ctrl-C then arrives here, not in a callback, where the library would swallow it."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(build)
        try:
            return future.result()
        except BaseException:
            stop.set()  # the builder checks this after each step; leaving the pool waits for it
            raise


def _inspected(trt: Any, log: Any, plan: Any) -> str:
    """The inspector's lines for all layers; empty if the library cannot open the engine."""
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        return ""
    inspector = engine.create_engine_inspector()
    one_line = trt.LayerInformationFormat.ONELINE
    return "\n".join(inspector.get_layer_information(i, one_line).strip() for i in range(engine.num_layers))


def _profile(builder: Any, network: Any, batch: BatchRange) -> Any:
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((n, *rest) for n in batch))
    return profile


def _log(trt: Any) -> Any:
    """A logger that keeps all messages and prints none. The class is made here because its base is in the library."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append((severity, message))

        def first_error(self) -> str:
            errors = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
            return next((message for severity, message in self.messages if severity in errors), "no reason was given")

        def text(self) -> str:
            return "\n".join(message for _, message in self.messages)

    return Log()


def _progress_monitor(trt: Any, stop: threading.Event, report: Callable[[int], None]) -> Any:
    """A monitor that reports the library's nested phases as one percentage. The library calls it from its own threads."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self._lock = threading.Lock()
            self._phases: list[list[Any]] = []  # the open ones, outermost first: name, steps, steps done
            self._reported = -1

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases.append([phase_name, max(num_steps, 1), 0])

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                while self._phases and self._phases.pop()[0] != phase_name:
                    pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Whether the build goes on."""
            with self._lock:
                for phase in self._phases:
                    if phase[0] == phase_name:
                        phase[2] = min(step + 1, phase[1])
                done = min(int(100 * self._fraction()), 99)
                is_new = done > self._reported
                self._reported = max(done, self._reported)
            try:
                if is_new:
                    report(done)
            except BaseException as e:  # an exception must not pass through the library's frames
                self.error = e
                stop.set()
            return not stop.is_set()

        def _fraction(self) -> float:
            fraction = 0.0  # of the phase inside
            for _, steps, done in reversed(self._phases):
                fraction = min((done + fraction) / steps, 1.0)
            return fraction

    return Monitor()


def _one_line(text: str) -> str:
    return " ".join(str(text).split())[:300]
