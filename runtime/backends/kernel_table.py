"""The kernels of a built engine, read from TensorRT's log: their types, the bytes that they move and their multiplications.

The builder writes one line for each layer if its log is verbose. The engine inspector writes the same lines.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import Any, TypedDict

from stylert.core.roofline import PeakRates, lower_bound_ms

#: Kinds of layers that run on the host: the computation of shapes
HOST_LAYERS = ("shape_call",)

LAYER = re.compile(
    r"^\s*Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), Inputs: (?P<inputs>.*), Outputs: (?P<outputs>.*)$", re.M
)
#: The end of a name of TensorRT-RTX: the number of the compiled graph, one for each batch range, and that of the kernel
RANGE = re.compile(r"_myl(\d+)_\d+$")
ORIGIN = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
TENSOR = re.compile(r"Dimensions: (\[[-0-9,]*\]).*?Datatype: (\w+)")
TOTALS = {
    "weights_bytes": re.compile(r"Total Weights Memory: (\d+) bytes"),
    "activation_bytes": re.compile(r"Total Activation Memory: (\d+) bytes"),
}
ITEM_BYTES = {
    "Double": 8,
    "Int64": 8,
    "Float": 4,
    "Int32": 4,
    "Half": 2,
    "BFloat16": 2,
    "Int8": 1,
    "UInt8": 1,
    "FP8": 1,
    "Bool": 1,
}
#: The largest side of a convolution's kernel, pixels. Wider tensors are images.
MAX_KERNEL_SIDE = 8


class EngineLayer(TypedDict):
    """A layer of an engine, as `engine.json` holds it.

    `range` is the index of its batch range. `reads` are types, `writes` are types with shapes, `origins` are ONNX nodes.
    `bytes` are those of its operands and results, and `macs` those of its convolution.
    """

    name: str
    range: int
    kind: str
    reads: list[str]
    writes: list[str]
    origins: list[str]
    bytes: int
    macs: int


def layer_table(log: str, batch_range: int = 0) -> dict[str, Any]:
    """The table of an engine's layers, with sums over those that are kernels.

    A dynamic batch counts as one image. Operands count whole, even if a kernel reads only a part of them.

    Args:
        log: The builder's log, or the inspector's lines.
        batch_range: Index of the batch range that the sums are for. An engine has kernels of its own for each range.

    Returns:
        JSON values. `layers` has an `EngineLayer` for each layer. The sums are `kernels` (how many), `kinds` (how many of
        each), and `moved_bytes`. `weights_bytes` and `activation_bytes` are there if the log has them.
    """
    layers = [_layer(match, batch_range) for match in LAYER.finditer(log)]
    kernels = kernels_of(layers, batch_range)
    kinds = [kernel["kind"] for kernel in kernels]
    totals = {name: int(match[1]) for name, pattern in TOTALS.items() if (match := pattern.search(log))}
    return {
        "kernels": len(kernels),
        "kinds": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "moved_bytes": sum(kernel["bytes"] for kernel in kernels),
        "range": batch_range,
        **totals,
        "layers": layers,
    }


def kernels_of(layers: Sequence[EngineLayer], batch_range: int) -> list[EngineLayer]:
    """The layers of a batch range that run on the GPU."""
    return [layer for layer in layers if layer["range"] == batch_range and layer["kind"] not in HOST_LAYERS]


def engine_lower_bound_ms(kernels: Sequence[EngineLayer], rates: PeakRates) -> float:
    """The least time of an engine for one image: the sum of its kernels' lower bounds, with no time between kernels.

    Args:
        kernels: Kernels of one batch range, see `kernels_of`.
        rates: Rates of the GPU. `float16` stands in for 8-bit formats that it lacks.

    Returns:
        Milliseconds.
    """
    total = 0.0
    for kernel in kernels:
        dtype = _arithmetic(kernel["reads"])
        if dtype not in rates.tflops:
            dtype = "float16"
        total += lower_bound_ms(2 * kernel["macs"], kernel["bytes"], dtype, rates)
    return total


def _arithmetic(reads: Sequence[str]) -> str:
    narrow = {"Int8": "int8", "FP8": "fp8", "Half": "float16", "BFloat16": "float16"}
    return next((name for kind, name in narrow.items() if kind in reads), "float32")


#: Data type and shape
_TypeAndShape = tuple[str, tuple[int, ...]]


def _layer(match: re.Match[str], default_range: int) -> EngineLayer:
    inputs, _, constants = match["inputs"].partition("Constants:")
    read, weights, written = (_tensors(text) for text in (inputs, constants, match["outputs"]))
    numbered = RANGE.search(match["name"])
    return {
        "name": match["name"],
        "range": int(numbered[1]) if numbered else default_range,
        "kind": match["type"],
        "reads": sorted({kind for kind, _ in read}),
        "writes": [f"{kind}[{','.join(map(str, shape))}]" for kind, shape in written],
        "origins": ORIGIN.findall(match["outputs"]),
        "bytes": sum(_bytes(*tensor) for tensor in (*read, *weights, *written)),
        "macs": _macs(f"{match['name']} {match['type']}".lower(), read, weights, written),
    }


def _tensors(text: str) -> list[_TypeAndShape]:
    return [(kind, tuple(int(n) for n in shape.strip("[]").split(",") if n)) for shape, kind in TENSOR.findall(text)]


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    return ITEM_BYTES.get(kind, 4) * _size(shape)


def _size(shape: tuple[int, ...]) -> int:
    return prod(max(n, 1) for n in shape)


def _macs(name_and_kind: str, read: list[_TypeAndShape], weights: list[_TypeAndShape], written: list[_TypeAndShape]) -> int:
    """Multiplications of a convolution; 0 for any other layer.

    A convolution `[O, I, k, k]` uses every weight once for each pixel that it writes. A transposed one `[I, O, k, k]`
    uses every weight once for each pixel that it reads.
    """
    if not ("corr" in name_and_kind or "conv" in name_and_kind) or not read or not written:
        return 0
    candidates = [
        shape for _, shape in (*read[1:], *weights) if len(shape) == 4 and shape[0] > 0 and max(shape[2:]) <= MAX_KERNEL_SIDE
    ]
    if not candidates:
        return 0
    kernel = max(candidates, key=_size)
    pixels = read[0][1] if "deconv" in name_and_kind else written[0][1]
    return _size(pixels) * _size(kernel) // kernel[0]
