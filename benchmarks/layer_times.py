"""The time of each layer of the network, from the profilers of the backends.

ONNX Runtime, OpenVINO, TensorRT and PyTorch time the nodes or kernels of their own compiled graphs. `layer_assignment.py` finds
the layer of each, and the times of a layer are added.
"""

from __future__ import annotations

import bisect
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stylert.benchmarks.layer_assignment import (
    IMAGE,
    STYLES,
    Node,
    assign_layers,
    engine_layers,
    first_layer_of,
    given_layer,
    in_execution_order,
    layer_of,
    name_nodes_by_layer,
    onnx_layers,
    style_node_names,
)
from stylert.benchmarks.machine.interference import instability_remarks, watch
from stylert.benchmarks.machine.lower_bounds import layer_lower_bounds
from stylert.benchmarks.models import bundle_config
from stylert.benchmarks.scenarios.measure import Configuration
from stylert.benchmarks.schema import LayerTime, Profile
from stylert.core.errors import BackendError
from stylert.core.files.temporary import temporary_folder
from stylert.core.roofline import PeakRates
from stylert.models.network_kinds import require_stylegan2
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.runtime.backends import onnxruntime, openvino
from stylert.runtime.bundle import Bundle
from stylert.runtime.engines import read_record
from stylert.runtime.layer_forms import layer_forms
from stylert.runtime.loading import engine_to_load, open_synthesis
from stylert.runtime.session import LayerTimer

TIMED_CALLS, WARM_UP_CALLS = 10, 3

#: By layer, milliseconds of a call and the number of nodes.
LayerTimes = dict[str, tuple[float, int]]


def profile_layers(configuration: Configuration, work: dict[str, Any], rates: PeakRates | None = None) -> Profile:
    """Time every layer, in this process.

    Args:
        configuration: What to run.
        work: The work of the profile in the results.
        rates: Peak rates of the machine, for lower bounds; None for no lower bounds.

    Raises:
        BackendError: The backend gives no time per layer here.
        InputError: The bundle holds another network than StyleGAN2.
    """
    bundle = Bundle.load(configuration.bundle)
    if configuration.backend not in PROFILERS:
        raise BackendError(f"{configuration.backend} gives no time per layer here")
    with watch() as watched:
        times, method = PROFILERS[configuration.backend](bundle, configuration)
    assert watched.interference is not None
    method = "; ".join([method, *instability_remarks(None, watched.interference)])
    config = require_stylegan2(bundle_config(bundle), f"bundle {bundle.path}", "the profile of layers")
    bounds = layer_lower_bounds(config, configuration.precision, configuration.batch, rates) if rates else {}
    layers = [LayerTime(name, *times[name], bounds.get(name)) for name in _layer_names(config) if name in times]
    setup = {"backend": configuration.backend, "form": configuration.form, "threads": configuration.threads}
    return Profile(work, setup, "ms", sum(layer.value for layer in layers), method, layers)


def _layer_names(config: GeneratorConfig) -> list[str]:
    """Every name that a node can be assigned to, in the order of the network."""
    names = [STYLES]
    for spec in config.layers():
        names += [f"b{spec.resolution}.skip", spec.name]
    return list(dict.fromkeys([*names, IMAGE]))


def _onnxruntime(bundle: Bundle, configuration: Configuration) -> tuple[LayerTimes, str]:
    """By ONNX Runtime's profile.

    The nodes are named after their layers before ONNX Runtime sees them, since its optimiser keeps the beginning of a node's
    name. The optimised graph, which it writes to a file, tells the layers of the nodes that it inserts.
    """
    import onnx

    ort = onnxruntime.library()
    with temporary_folder("profile") as folder:
        options = onnxruntime.session_options(configuration.threads)  # those of the backend
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.optimized_model_filepath = str(folder / "optimised.onnx")
        source = _network_in_forms(bundle, configuration, folder)
        onnx.save(name_nodes_by_layer(source), folder / "named.onnx")
        session = ort.InferenceSession(folder / "named.onnx", options, providers=["CPUExecutionProvider"])
        inputs = _random_inputs(bundle, configuration.batch)
        for _ in range(WARM_UP_CALLS + TIMED_CALLS):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        graph = onnx.load(folder / "optimised.onnx", load_external_data=False).graph
    nodes = [Node(n.name, tuple(n.input), tuple(n.output), given_layer(n.name)) for n in in_execution_order(graph)]
    layers = assign_layers(nodes)
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")[-TIMED_CALLS:]
    calls = [CallTimes() for _ in starts]
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= starts[0]:
            call = calls[bisect.bisect(starts, event["ts"]) - 1]
            node = event["name"].removesuffix("_kernel_time")
            call.add(layers.get(node, IMAGE), event["dur"] / 1000)
    return median_times(calls), f"ONNX Runtime's profiler, median of {TIMED_CALLS} calls"


def _openvino(bundle: Bundle, configuration: Configuration) -> tuple[LayerTimes, str]:
    """By OpenVINO's counters. The nodes of its runtime model know the ONNX nodes that they were made from."""
    import onnx

    source = _network(bundle, configuration)
    # The same settings as in the backend.
    hint = "bf16" if configuration.precision in ("bf16", "int8") else "f32"
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
    if configuration.threads is not None:
        options["INFERENCE_NUM_THREADS"] = configuration.threads
    with temporary_folder("profile") as folder:
        lowered = openvino.lowered_network(source, folder, configuration.precision, configuration.batch)
        graph = onnx.load(lowered).graph
        core = openvino.shared_core()
        compiled = core.compile_model(core.read_model(lowered), "CPU", options)
    source_layers = onnx_layers(graph, style_node_names(source))
    nodes = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        is_result = op.get_type_name() == "Result"
        origins = [] if is_result else str(op.get_rt_info()["originalLayersNames"].astype(str)).split(",")
        layer = next((source_layers[origin] for origin in origins if origin in source_layers), None)
        inputs = tuple(i.get_source_output().get_node().get_friendly_name() for i in op.inputs())
        name = op.get_friendly_name()
        nodes.append(Node(name, inputs, (name,), layer or first_layer_of((name,))))
    layers = assign_layers(nodes)
    request, random_inputs = compiled.create_infer_request(), _random_inputs(bundle, configuration.batch)
    calls = []
    for _ in range(WARM_UP_CALLS + TIMED_CALLS):
        request.infer(random_inputs)
        call = CallTimes()
        for info in request.profiling_info:
            if "EXECUTED" in str(info.status):
                call.add(layers.get(info.node_name, IMAGE), 1000 * info.real_time.total_seconds())
        calls.append(call)
    return median_times(calls[WARM_UP_CALLS:]), f"OpenVINO's counters, median of {TIMED_CALLS} calls"


def _torch(bundle: Bundle, configuration: Configuration) -> tuple[LayerTimes, str]:
    """By PyTorch's profiler. It runs the nodes of the bundle's own file; a node is identified by its first output."""
    import onnx

    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler otherwise prints each start and stop
    source = _network(bundle, configuration)
    style_nodes = style_node_names(source)
    graph = onnx.load(source).graph
    nodes = [Node(n.output[0], tuple(n.input), tuple(n.output), first_layer_of((n.name, *n.output))) for n in graph.node]
    layers = assign_layers(nodes, frozenset(n.output[0] for n in graph.node if n.name in style_nodes))
    times = _session_times(bundle, configuration, layers)
    return times, f"PyTorch's profiler, median of {TIMED_CALLS} calls without a CUDA graph"


def _tensorrt(bundle: Bundle, configuration: Configuration) -> tuple[LayerTimes, str]:
    """By the engine's profiler. The table in `engine.json` has the ONNX nodes that each kernel was made from."""
    from stylert.runtime.lowering import lower

    source = _network(bundle, configuration)
    engine = engine_to_load(bundle, configuration.backend, configuration.precision)
    record = read_record(engine) if engine is not None else None
    with temporary_folder("profile") as folder:
        kernels = [] if record is None else record.layers
        layers = engine_layers(kernels, lower(source, folder / "lowered.onnx"), style_node_names(source))
    times = _session_times(bundle, configuration, layers)
    return times, f"the engine's profiler, median of {TIMED_CALLS} calls without a CUDA graph"


def _session_times(bundle: Bundle, configuration: Configuration, layers: Mapping[str, str]) -> LayerTimes:
    """The times of a session that times its own nodes; `layers` are the layers of nodes by name."""
    session = open_synthesis(bundle, configuration.backend, configuration.precision, configuration.threads)[0]
    calls = []
    try:
        if not isinstance(session, LayerTimer):
            raise BackendError(f"{configuration.backend} does not time its layers")
        for _ in range(WARM_UP_CALLS + TIMED_CALLS):
            call = CallTimes()
            for name, ms in session.layer_times(_random_inputs(bundle, configuration.batch)):
                call.add(layers.get(name) or layer_of(name) or IMAGE, ms)
            calls.append(call)
    finally:
        session.close()
    return median_times(calls[WARM_UP_CALLS:])


class CallTimes:
    """Milliseconds of the nodes of each layer in one call."""

    def __init__(self) -> None:
        self.ms: dict[str, list[float]] = {}

    def add(self, layer: str, ms: float) -> None:
        self.ms.setdefault(layer, []).append(ms)


def median_times(calls: Sequence[CallTimes]) -> LayerTimes:
    """For each layer the median over the calls of the sum of its nodes, and the largest number of nodes."""
    times = {}
    for layer in dict.fromkeys(layer for call in calls for layer in call.ms):
        nodes_of_calls = [call.ms.get(layer, []) for call in calls]
        times[layer] = statistics.median(map(sum, nodes_of_calls)), max(map(len, nodes_of_calls))
    return times


def _network(bundle: Bundle, configuration: Configuration) -> Path:
    """The file of the synthesis network that the backend runs."""
    return bundle.checked_file(bundle.network(configuration.precision, configuration.backend))


def _network_in_forms(bundle: Bundle, configuration: Configuration, folder: Path) -> Path:
    """The same as ONNX Runtime gets it: in float32, layers have the forms of the processor's class. `folder` keeps the file."""
    source = _network(bundle, configuration)
    content = layer_forms(source)[0] if configuration.precision == onnxruntime.FORMS_PRECISION else None
    if content is None:
        return source
    rewritten = folder / "forms.onnx"
    rewritten.write_bytes(content)
    return rewritten


def _random_inputs(bundle: Bundle, batch: int) -> dict[str, np.ndarray]:
    """`ws` and the noise inputs."""
    rng = np.random.default_rng(0)
    inputs = {"ws": rng.standard_normal((batch, bundle.num_ws, bundle.model["w_dim"]), np.float32)}
    for name, size in bundle.noise_sizes.items():
        inputs[name] = rng.standard_normal((batch, 1, *size), np.float32)
    return inputs | bundle.unmoved_styles(batch)


#: By backend, a function from a bundle and a configuration to times and a description of the method.
PROFILERS = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt,
}
