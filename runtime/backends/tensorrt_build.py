"""From a plain ONNX file to a TensorRT engine. TensorRT and TensorRT-RTX share this: their Python API is the same module.

Networks are strongly typed: precision lives in the file, as TensorRT 11 wants it and earlier versions allow it. The table
of kernels is read from the builder's own log, because the engine inspector would need a driver and a device; only where the log has
none is the inspector asked.
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
    """Parse `network_file`, build it with an optimisation profile for each batch range, write `engine`; return layers and sizes.

    `trt` is the library's module; `configure` sets on the builder configuration what the two libraries do differently.
    Raises BundleError for a file that the parser refuses, BackendError for a network that the compiler refuses, and
    KeyboardInterrupt after Ctrl-C, when the builder has stopped.
    """
    stop = threading.Event()
    monitor = _monitor(trt, stop, lambda done: progress(stage, done, 100))

    def build() -> tuple[Any, Any]:
        log = _log(trt)
        builder = trt.Builder(log)
        network = builder.create_network(creation_flags | 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not parser.parse_from_file(str(network_file)):
            reason = parser.get_error(0).desc() if parser.num_errors else log.reason()
            raise BundleError(f"{stage}: the network cannot be parsed: {_one_line(reason)}")
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options.level is not None:
            config.builder_optimization_level = options.level
        for batch in options.profiles:
            config.add_optimization_profile(_profile(builder, network, batch))
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
            # With it an engine would carry a library that loading runs. Nothing in a bundle may be code of the host.
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
        configure(config)
        config.progress_monitor = monitor
        return log, None if stop.is_set() else builder.build_serialized_network(network, config)

    log, plan = _away_from_ctrl_c(build, stop)
    if monitor.error is not None:
        raise monitor.error
    if plan is None:
        raise BackendError(f"{stage}: the network cannot be compiled: {_one_line(log.reason())}")
    engine.write_bytes(plan)
    progress(stage, 100, 100)
    profiles = options.profiles
    return table_of(trt, log, plan, min(range(len(profiles)), key=lambda i: profiles[i]))


def table_of(trt: Any, log: Any, plan: Any, batch_range: int = 0) -> dict[str, Any]:
    """The table of kernels as the builder logged it, or else as the library's inspector tells it."""
    text = log.text()
    return layer_table(text if LAYER.search(text) else f"{text}\n{_inspected(trt, log, plan)}", batch_range)


def _away_from_ctrl_c(work: Callable[[], Any], stop: threading.Event) -> Any:
    """Do `work` in a thread of its own, so that Ctrl-C arrives here and not inside a callback, where the library would eat it."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except BaseException:
            stop.set()  # the builder asks after each step; leaving the pool waits for it
            raise


def _inspected(trt: Any, log: Any, plan: Any) -> str:
    """The table of a library whose builder does not log it. It needs the GPU, as that library's builder does anyway."""
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
    """A logger that keeps what it is told: nothing reaches the terminal, and an error has a reason."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[Any, str]] = []

        def log(self, severity: Any, message: str) -> None:
            self.messages.append((severity, message))

        def reason(self) -> str:
            serious = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
            return next((m for s, m in self.messages if s in serious), "no reason was given")

        def text(self) -> str:
            return "\n".join(m for _, m in self.messages)

    return Log()


def _monitor(trt: Any, stop: threading.Event, report: Callable[[int], None]) -> Any:
    """The library's nested phases as one percentage. Its methods are called from the library's threads."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.error: BaseException | None = None
            self._lock = threading.Lock()
            self._phases: list[list[Any]] = []  # open ones, outermost first: name, steps, steps done
            self._shown = -1

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases.append([phase_name, max(num_steps, 1), 0])

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                while self._phases and self._phases.pop()[0] != phase_name:
                    pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                for phase in self._phases:
                    if phase[0] == phase_name:
                        phase[2] = min(step + 1, phase[1])
                done = min(int(100 * self._fraction()), 99)
                new = done > self._shown
                self._shown = max(done, self._shown)
            try:
                if new:
                    report(done)
            except BaseException as e:  # an exception must not pass through the library's own frames
                self.error = e
                stop.set()
            return not stop.is_set()

        def _fraction(self) -> float:
            inner = 0.0
            for _, steps, done in reversed(self._phases):
                inner = min((done + inner) / steps, 1.0)
            return inner

    return Monitor()


def _one_line(text: str) -> str:
    return " ".join(str(text).split())[:300]
