"""Time per layer of the network, from what each backend tells about its own nodes.

Compilers rename, split and fuse; what they leave are names of tensors. The exporter names every node after its layer, and each
layer's last tensor bears the layer's name, so an unnamed node belongs to the layer of what it feeds: the mapping walks the
graph that the backend really runs (ONNX Runtime's optimised file, OpenVINO's runtime model) from its end to its beginning.
A reordering that a backend puts between two layers counts to the later one.

TensorRT's kernels tell the nodes that they were fused from, and PyTorch runs the bundle's own nodes.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import re
import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylert.benchmarks.machine.interference import remarks, watch
from stylert.benchmarks.machine.lower_bounds import layer_floors
from stylert.benchmarks.machine.roofline import Ceiling
from stylert.benchmarks.scenarios.measure import Configuration
from stylert.benchmarks.schema import LayerTime, Profile
from stylert.core.errors import BackendError
from stylert.models.stylegan2.config import GeneratorConfig
from stylert.runtime.bundle import Bundle
from stylert.runtime.engines import engine_to_load, open_synthesis

#: Calls that are profiled, after those that are not.
CALLS, WARM_UP = 10, 3
#: Before every layer: the styles of all of them. Behind: the conversion of the image.
STYLES, IMAGE = "styles", "image"
TAIL = frozenset({"scaled", "shifted", "clipped", "floored", "nhwc", "image"})
MARK = re.compile(rf"(b\d+\.\w+|{STYLES}|{IMAGE})@\d+")
LAYER = re.compile(r"\bb(\d+)\.(conv0|conv1|torgb|skip|upsampled|img|sum|const)\b")


@dataclass(frozen=True)
class Node:
    """One node of the graph that a backend runs; `layer` where its own name tells."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer: str | None


def layer_of(name: str) -> str | None:
    """The layer in a node's or tensor's name: `b64.conv1`, or `b64.skip` for what carries the RGB image up; None for others."""
    found = LAYER.search(name)
    if found is None:
        return IMAGE if name in TAIL else None
    block, part = found.groups()
    return f"b{block}.{part if part.startswith('conv') or part == 'torgb' else 'skip'}"


def assign_layers(nodes: Sequence[Node], styles: frozenset[str] = frozenset()) -> dict[str, str]:
    """The layer of every node by name, from nodes in an order in which each stands before those that read it.

    A node without a layer of its own takes that of the first node that reads it, `image` at the end. Names in `styles`, and
    nodes that feed nothing else, belong to the styles.
    """
    readers: dict[str, str] = {}
    layers: dict[str, str] = {}
    for node in reversed(nodes):
        mine = node.layer
        if mine is None and node.name in styles:
            mine = STYLES
        if mine is None:
            mine = next((readers[o] for o in node.outputs if o in readers), IMAGE)
        layers[node.name] = mine
        for tensor in node.inputs:
            readers[tensor] = mine  # the first reader in the graph's order, as this walk goes backwards
    return layers


def profile_layers(configuration: Configuration, work: dict[str, Any], ceiling: Ceiling | None = None) -> Profile:
    """Measure per layer, in this process. Raises BackendError for a backend that has no profile here."""
    bundle = Bundle.load(configuration.bundle)
    if configuration.backend not in PROFILERS:
        raise BackendError(f"{configuration.backend} gives no time per layer here")
    with watch() as watched:
        times, method = PROFILERS[configuration.backend](bundle, configuration)
    assert watched.disturbance is not None
    method = "; ".join([method, *remarks(None, watched.disturbance)])
    config = GeneratorConfig.from_dict(bundle.model)
    floors = layer_floors(config, configuration.precision, configuration.batch, ceiling) if ceiling else {}
    order = [STYLES, *dict.fromkeys(name for s in config.layers() for name in (f"b{s.resolution}.skip", s.name)), IMAGE]
    layers = [LayerTime(name, *times[name], floors.get(name)) for name in order if name in times]
    setup = {"backend": configuration.backend, "form": configuration.form, "threads": configuration.threads}
    return Profile(work, setup, "ms", sum(layer.value for layer in layers), method, layers)


def _onnxruntime(bundle: Bundle, configuration: Configuration) -> tuple[dict[str, tuple[float, int]], str]:
    """ONNX Runtime's profile. Its optimiser keeps a node's name, or begins with it, so the nodes are named after their layers
    before it sees them; what it inserts is looked up in the graph that it writes down."""
    import onnx
    import onnxruntime as ort

    source = bundle.checked_file(bundle.network(configuration.precision, configuration.backend))
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        if configuration.threads is not None:
            options.intra_op_num_threads = configuration.threads
        onnx.save(named_by_layer(source), Path(folder) / "named.onnx")
        session = ort.InferenceSession(Path(folder) / "named.onnx", options, providers=["CPUExecutionProvider"])
        inputs = _inputs(bundle, configuration.batch)
        for _ in range(WARM_UP + CALLS):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
        graph = onnx.load(Path(folder) / "optimised.onnx", load_external_data=False).graph
    layers = assign_layers([Node(n.name, tuple(n.input), tuple(n.output), _marked(n.name)) for n in _in_order(graph)])
    starts = sorted(e["ts"] for e in events if e["name"] == "model_run")[-CALLS:]
    calls = [Call() for _ in starts]
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= starts[0]:
            name = event["name"].removesuffix("_kernel_time")
            calls[bisect.bisect(starts, event["ts"]) - 1].add(layers.get(name, IMAGE), event["dur"] / 1000)
    return medians(calls), f"ONNX Runtime's profiler, median of {CALLS} calls"


def named_by_layer(source: Path) -> Any:
    """The network with its functions inlined, each node named `<layer>@<number>`, inside branches too."""
    import onnx
    from onnx.inliner import inline_local_functions

    model = inline_local_functions(onnx.load(source))
    numbers = itertools.count()
    # The inliner's own names may repeat.
    found = list(enumerate(model.graph.node))
    nodes = [Node(f"{i}", _read(n), tuple(n.output), _own_layer((n.name, *n.output))) for i, n in found]
    written = _style_names(source)
    layers = assign_layers(nodes, frozenset(f"{i}" for i, n in found if n.name in written))

    def name(node: Any, layer: str) -> None:
        node.name = f"{layer}@{next(numbers)}"
        for attribute in node.attribute:
            for inner in attribute.g.node:
                name(inner, layer)

    for i, node in found:
        name(node, layers[f"{i}"])
    return model


def _openvino(bundle: Bundle, configuration: Configuration) -> tuple[dict[str, tuple[float, int]], str]:
    """OpenVINO's counters of its runtime model, whose nodes know the names of the ONNX nodes that they come from."""
    import onnx
    import openvino as ov

    from stylert.runtime.lowering import lower

    source = bundle.checked_file(bundle.network(configuration.precision, configuration.backend))
    hint = "bf16" if configuration.precision in ("bf16", "int8") else "f32"  # as the backend sets it
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True}
    if configuration.threads is not None:
        config["INFERENCE_NUM_THREADS"] = configuration.threads
    with tempfile.TemporaryDirectory() as folder:
        plain = lower(source, Path(folder) / "plain.onnx", configuration.batch)  # of fixed shape, as the backend runs it
        graph = onnx.load(plain).graph
        compiled = ov.Core().compile_model(ov.Core().read_model(plain), "CPU", config)
    onnx_nodes = [Node(n.name, _read(n), tuple(n.output), _own_layer((n.name, *n.output))) for n in graph.node]
    known = assign_layers(onnx_nodes, _style_names(source))
    nodes = []
    for op in compiled.get_runtime_model().get_ordered_ops():
        origins = str(op.get_rt_info()["originalLayersNames"].astype(str)).split(",") if op.get_type_name() != "Result" else []
        own = next((known[o] for o in origins if o in known), None)
        inputs = tuple(i.get_source_output().get_node().get_friendly_name() for i in op.inputs())
        name = op.get_friendly_name()
        nodes.append(Node(name, inputs, (name,), own or _own_layer((name,))))
    layers = assign_layers(nodes)
    request, inputs_ = compiled.create_infer_request(), _inputs(bundle, configuration.batch)
    calls = []
    for _ in range(WARM_UP + CALLS):
        request.infer(inputs_)
        calls.append(Call())
        for info in request.profiling_info:
            if "EXECUTED" in str(info.status):
                calls[-1].add(layers.get(info.node_name, IMAGE), 1000 * info.real_time.total_seconds())
    return medians(calls[WARM_UP:]), f"OpenVINO's counters, median of {CALLS} calls"


def _torch(bundle: Bundle, configuration: Configuration) -> tuple[dict[str, tuple[float, int]], str]:
    """PyTorch's profiler, node by node of the canonical file, whose nodes bear their layers' names."""
    import onnx

    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # its profiler tells of each start and stop otherwise
    source = bundle.checked_file(bundle.network(configuration.precision, configuration.backend))
    graph = onnx.load(source).graph
    nodes = [Node(n.output[0], tuple(n.input), tuple(n.output), _own_layer((n.name, *n.output))) for n in graph.node]
    written = _style_names(source)
    layers = assign_layers(nodes, frozenset(n.output[0] for n in graph.node if n.name in written))
    return _told(bundle, configuration, layers), f"PyTorch's profiler, median of {CALLS} calls without a CUDA graph"


def _tensorrt(bundle: Bundle, configuration: Configuration) -> tuple[dict[str, tuple[float, int]], str]:
    """The library's profiler, whose names are those of the table in `engine.json`, which knows the nodes that each came from."""
    from stylert.runtime.lowering import lower

    source = bundle.checked_file(bundle.network(configuration.precision, configuration.backend))
    engine = engine_to_load(bundle, configuration.backend, configuration.precision)
    table = json.loads((engine / "engine.json").read_text())["layers"] if engine is not None else []
    with tempfile.TemporaryDirectory() as folder:
        layers = engine_layers(table, lower(source, Path(folder) / "plain.onnx"), _style_names(source))
    times = _told(bundle, configuration, layers)
    return times, f"the engine's profiler, median of {CALLS} calls without a CUDA graph"


def engine_layers(table: Sequence[Mapping[str, Any]], lowered: Path, styles: frozenset[str]) -> dict[str, str]:
    """The layer of every kernel in an engine's table, by the kernel's name.

    A kernel that was fused from nodes of several layers belongs to the one that most of them belong to.
    """
    import onnx

    graph = onnx.load(lowered, load_external_data=False).graph
    known = assign_layers(
        [Node(n.name, _read(n), tuple(n.output), _own_layer((n.name, *n.output))) for n in graph.node], styles
    )
    found = {}
    for kernel in table:
        origins = [known.get(name) or _own_layer((name,)) for name in kernel["origins"]]
        counts = Counter(layer for layer in origins if layer is not None)
        found[kernel["name"]] = max(counts, key=counts.__getitem__, default=layer_of(kernel["name"]) or STYLES)
    return found


def _told(bundle: Bundle, configuration: Configuration, layers: Mapping[str, str]) -> dict[str, tuple[float, int]]:
    """Times by layer of a session that tells them by name."""
    session: Any = open_synthesis(bundle, configuration.backend, configuration.precision, configuration.threads)[0]
    calls = []
    try:
        for _ in range(WARM_UP + CALLS):
            calls.append(Call())
            for name, ms in session.layer_times(_inputs(bundle, configuration.batch)):
                calls[-1].add(layers.get(name) or layer_of(name) or IMAGE, ms)
    finally:
        session.close()
    return medians(calls[WARM_UP:])


class Call:
    """What the nodes of every layer took in one call."""

    def __init__(self) -> None:
        self.ms: dict[str, list[float]] = {}

    def add(self, layer: str, ms: float) -> None:
        self.ms.setdefault(layer, []).append(ms)


def medians(calls: Sequence[Call]) -> dict[str, tuple[float, int]]:
    """For every layer the median over the calls of its nodes' time together, and how many nodes there are."""
    names = dict.fromkeys(name for call in calls for name in call.ms)
    each = {name: [call.ms.get(name, []) for call in calls] for name in names}
    return {name: (statistics.median(map(sum, found)), max(map(len, found))) for name, found in each.items()}


def _inputs(bundle: Bundle, batch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    inputs = {"ws": rng.standard_normal((batch, bundle.num_ws, bundle.model["w_dim"]), np.float32)}
    return inputs | {n: rng.standard_normal((batch, 1, r, r), np.float32) for n, r in bundle.noise_inputs.items()}


def _read(node: Any) -> tuple[str, ...]:
    """What a node reads, its branches included: those take tensors of the graph around them without naming them as inputs."""
    inner = (tensor for attribute in node.attribute for n in attribute.g.node for tensor in _read(n))
    outer = (o.name for attribute in node.attribute for o in attribute.g.output)
    return (*node.input, *inner, *outer)


def _marked(name: str) -> str | None:
    """The layer that `named_by_layer` wrote into a node's name."""
    found = MARK.search(name)
    return found[1] if found else None


def _own_layer(names: Sequence[str]) -> str | None:
    return next((layer for layer in map(layer_of, names) if layer is not None), None)


def _style_names(source: Path) -> frozenset[str]:
    """Nodes that the exporter wrote and that belong to no layer: they make the styles."""
    import onnx

    graph = onnx.load(source, load_external_data=False).graph
    return frozenset(n.name for n in graph.node if _own_layer((n.name, *n.output)) is None)


def _in_order(graph: Any) -> list[Any]:
    """A graph's nodes, each behind those whose results it reads; optimisers append theirs at the end."""
    made = {o: n for n in graph.node for o in n.output}
    order: list[Any] = []
    done: set[int] = set()
    for last in graph.node:
        stack = [(last, False)]
        while stack:
            node, ready = stack.pop()
            if id(node) in done:
                continue
            if ready:
                done.add(id(node))
                order.append(node)
                continue
            stack.append((node, True))
            stack += [(made[i], False) for i in node.input if i in made and id(made[i]) not in done]
    return order


#: Backends that tell their times node by node
PROFILERS = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt,
}
