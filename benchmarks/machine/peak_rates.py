"""Peak rates of this machine's processor, measured: a matrix product for arithmetic, a copy for memory.

Each rate is that of the fastest library at hand (NumPy, ONNX Runtime, OpenVINO), so that one lower bound holds for all of
them. The fastest run counts. The matrices are large enough to keep every core busy; the copied arrays are far larger
than a cache.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from stylert.core.machine.host import usable_cores
from stylert.core.roofline import PeakRates
from stylert.runtime.backends import onnxruntime, openvino

#: Side of the square matrices.
SIZE = 2048
COPY_BYTES = 256 * 2**20
#: Precisions that are measured, each with its dtype in `PeakRates.tflops`.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}


def measure_peak_rates(
    threads: int | None = None, seconds: float = 0.5, size: int = SIZE, copy_bytes: int = COPY_BYTES
) -> PeakRates:
    """Measure the processor.

    Args:
        threads: Threads of every library; by default as many as there are usable cores.
        seconds: Time for each library and precision.
        size: Side of the square matrices.
        copy_bytes: Size of the array that is copied.
    """
    threads = threads or usable_cores()
    tflops: dict[str, float] = {}
    sources = []
    for precision, dtype in DTYPES.items():
        rates = {
            library: 2 * size**3 / _fastest_seconds(run, seconds) / 1e12 for library, run in _products(precision, size, threads)
        }
        if rates:
            fastest = max(rates, key=rates.__getitem__)
            tflops[dtype] = rates[fastest]
            sources.append(f"{precision} {fastest}")
    return PeakRates(tflops, _copy_rate(threads, seconds, copy_bytes), f"measured: {', '.join(sources)}, copy NumPy")


def highest_rates(measurements: Sequence[PeakRates]) -> PeakRates | None:
    """The best rate of each kind over several measurements, since a shared host may be slow in one; None without any."""
    if len(measurements) < 2:
        return measurements[0] if measurements else None
    tflops = {dtype: max(rates.tflops[dtype] for rates in measurements) for dtype in measurements[0].tflops}
    bandwidth = max(rates.bandwidth for rates in measurements)
    return PeakRates(tflops, bandwidth, f"{measurements[0].source}; best of {len(measurements)} moments")


def _products(precision: str, size: int, threads: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """By library, a function that multiplies two `[size, size]` matrices in this precision."""
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
    """An ONNX file that multiplies `a` `[size, size]` by a constant."""
    from onnx import helper, numpy_helper

    weight = np.random.default_rng(1).standard_normal((size, size), np.float32)
    return _model(size, [helper.make_node("MatMul", ["a", "w"], ["y"])], [numpy_helper.from_array(weight, "w")])


def _int8_product(size: int) -> bytes:
    """The same in 8 bits, in the form that every runtime recognises: Q/DQ pairs around the product."""
    from onnx import helper, numpy_helper

    # Without VNNI two products are added in 16 bits. Up to 63 they fit: 2 * 63 * 255 < 2^15.
    weight = np.random.default_rng(1).integers(-63, 64, (size, size)).astype(np.int8)
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
    """An ONNX file of these nodes, from `a` to `y`."""
    from onnx import TensorProto, helper

    # A single number as output, so that copying the result out takes no time.
    nodes = [*nodes, helper.make_node("ReduceMax", ["y"], ["largest"], keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [size, size])],
        [helper.make_tensor_value_info("largest", TensorProto.FLOAT, [])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def _onnxruntime(model: bytes, inputs: dict[str, np.ndarray], threads: int) -> Callable[[], Any]:
    ort = onnxruntime.library()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)


def _openvino(model: bytes, inputs: dict[str, np.ndarray], threads: int, hint: str) -> Callable[[], Any]:
    config = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    core = openvino.shared_core()
    request = core.compile_model(core.read_model(model, b""), "CPU", config).create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True)


def _copy_rate(threads: int, seconds: float, size: int) -> float:
    """GB/s that a copy of `size` bytes reads and writes together, one slice of the array per thread."""
    source, target = np.ones(size // 8), np.zeros(size // 8)
    targets, sources = np.array_split(target, threads), np.array_split(source, threads)
    # NumPy copies without holding the interpreter's lock.
    with ThreadPoolExecutor(threads) as pool:
        fastest = _fastest_seconds(lambda: list(pool.map(np.copyto, targets, sources)), seconds)
    return 2 * size / fastest / 1e9


def _fastest_seconds(run: Callable[[], Any], seconds: float) -> float:
    """Seconds of the fastest of at least three runs, after a warm-up."""
    run()
    fastest, runs = float("inf"), 0
    end = time.perf_counter() + seconds
    while runs < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        fastest = min(fastest, time.perf_counter() - start)
        runs += 1
    return fastest
