"""What this machine can do at best, measured: bytes per second of a copy, and operations per second of a matrix product.

Each rate is that of the fastest library at hand (NumPy, ONNX Runtime, OpenVINO; PyTorch on a GPU), because a floor should
be one for all of them. A product of 2048-cubed matrices is large enough to keep every core busy and small enough to be
quick; the copy is of arrays far larger than a cache, one slice per thread. The best run counts: a ceiling is what was possible.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from stylert.benchmarks.machine.roofline import Ceiling
from stylert.core.host import usable_cores

SIZE = 2048
COPY_BYTES = 256 * 2**20
#: Precisions of a CPU, with the name that a floor looks them up by.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}


def measure_ceiling(
    threads: int | None = None, seconds: float = 0.5, size: int = SIZE, copy_bytes: int = COPY_BYTES
) -> Ceiling:
    """Rates of the processor here, about `seconds` for each library and precision."""
    count = threads or usable_cores()
    tflops: dict[str, float] = {}
    sources = []
    for precision, dtype in DTYPES.items():
        found = {name: 2 * size**3 / _best(run, seconds) / 1e12 for name, run in _products(precision, size, count)}
        if found:
            best = max(found, key=found.__getitem__)
            tflops[dtype] = found[best]
            sources.append(f"{precision} {best}")
    return Ceiling(tflops, _copy_rate(count, seconds, copy_bytes), f"measured: {', '.join(sources)}, copy NumPy")


def highest(moments: Sequence[Ceiling]) -> Ceiling | None:
    """The best rates of several moments: a host that is shared may be slow in one of them. None of none."""
    if len(moments) < 2:
        return moments[0] if moments else None
    tflops = {dtype: max(c.tflops[dtype] for c in moments) for dtype in moments[0].tflops}
    return Ceiling(tflops, max(c.bandwidth for c in moments), f"{moments[0].source}; best of {len(moments)} moments")


def _products(precision: str, size: int, threads: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Matrix products of `size`-cubed in each library that computes in this precision."""
    if precision == "fp32":
        yield "NumPy", _numpy_product(size)
    model = _int8_product(size) if precision == "int8" else _float_product(size)
    inputs = {"a": np.random.default_rng(0).standard_normal((size, size), np.float32)}
    if precision != "bf16":
        yield "ONNX Runtime", _onnxruntime(model, inputs, threads)
    if importlib.util.find_spec("openvino") is not None:
        yield "OpenVINO", _openvino(model, inputs, threads, "f32" if precision == "fp32" else "bf16")


def _numpy_product(size: int) -> Callable[[], Any]:
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def _float_product(size: int) -> bytes:
    """a `[size, size]` times a constant; the sum of the result is its output, so that none is copied out."""
    from onnx import helper, numpy_helper

    weight = np.random.default_rng(1).standard_normal((size, size), np.float32)
    return _model(size, [helper.make_node("MatMul", ["a", "w"], ["y"])], [numpy_helper.from_array(weight, "w")])


def _int8_product(size: int) -> bytes:
    """The same in 8 bits, written as every runtime reads it: quantised and dequantised values around the product."""
    from onnx import helper, numpy_helper

    weight = np.random.default_rng(1).integers(-127, 128, (size, size)).astype(np.int8)
    constants = {
        "w_q": weight, "w_s": np.full(size, 0.01, np.float32), "w_z": np.zeros(size, np.int8),
        "s": np.float32(0.03), "z": np.uint8(128), "y_s": np.float32(1), "y_z": np.uint8(128),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["a_q"]),
        helper.make_node("DequantizeLinear", ["a_q", "s", "z"], ["a_d"]),
        helper.make_node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w"], axis=1),
        helper.make_node("MatMul", ["a_d", "w"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "y_s", "y_z"], ["p_q"]),
        helper.make_node("DequantizeLinear", ["p_q", "y_s", "y_z"], ["y"]),
    ]
    return _model(size, nodes, [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])


def _model(size: int, nodes: list[Any], constants: list[Any]) -> bytes:
    from onnx import TensorProto, helper

    nodes = [*nodes, helper.make_node("ReduceMax", ["y"], ["sum"], keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [size, size])],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, [])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def _onnxruntime(model: bytes, inputs: dict[str, np.ndarray], threads: int) -> Callable[[], Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)


def _openvino(model: bytes, inputs: dict[str, np.ndarray], threads: int, hint: str) -> Callable[[], Any]:
    import openvino as ov

    config = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    core = ov.Core()
    request = core.compile_model(core.read_model(model, b""), "CPU", config).create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True)


def _copy_rate(threads: int, seconds: float, size: int) -> float:
    """GB/s that a copy reads and writes together."""
    source, target = np.ones(size // 8), np.zeros(size // 8)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:  # NumPy copies without holding the interpreter's lock
        best = _best(lambda: list(pool.map(lambda p: np.copyto(*p), parts)), seconds)
    return 2 * size / best / 1e9


def _best(run: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest of at least three runs."""
    run()
    best, runs, end = float("inf"), 0, time.perf_counter() + seconds
    while runs < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best
