"""What a compiler made of a network: its kernels, the bytes that each reads and writes, and the least time that they can take.

TensorRT's builder logs the table when it is told to be verbose; its inspector tells the same. An open batch counts as one image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from stylert.core.roofline import PeakRates, lower_bound_ms

#: What the table lists though it runs on the host: the computation of shapes.
NOT_KERNELS = ("shape_call",)

LAYER = re.compile(
    r"^\s*Name: (?P<name>.*?), LayerType: (?P<type>[^,]*), Inputs: (?P<inputs>.*), Outputs: (?P<outputs>.*)$", re.M
)
#: TensorRT-RTX ends names with the number of the compiled graph, of which each batch range is one, and of the kernel in it.
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
LARGEST_KERNEL = 8  # pixels on a side; what is wider is an image


def layer_table(log: str, batch_range: int = 0) -> dict[str, Any]:
    """Kernels and sizes: `kernels`, `kinds`, `moved_bytes` (what all kernels read and write for an image), totals of memory, `layers`.

    Of each layer its name, its kind, the types that it reads, what it writes, the nodes of the network that it came from, the bytes of
    its operands and results, and the multiplications of its convolution. Operands count whole, though a kernel may read a part.
    An engine of several batch ranges has kernels for each: layers tell their `range`, and the figures are of `batch_range` alone.
    """
    layers: list[dict[str, Any]] = []
    for found in LAYER.finditer(log):
        inputs, _, constants = found["inputs"].partition("Constants:")
        read, held, written = (_tensors(text) for text in (inputs, constants, found["outputs"]))
        numbered = RANGE.search(found["name"])
        layers.append(
            {
                "name": found["name"],
                "range": int(numbered[1]) if numbered else batch_range,
                "kind": found["type"],
                "reads": sorted({kind for kind, _ in read}),
                "writes": [f"{kind}[{','.join(map(str, shape))}]" for kind, shape in written],
                "origins": ORIGIN.findall(found["outputs"]),
                "bytes": sum(_bytes(*tensor) for tensor in (*read, *held, *written)),
                "macs": _macs(f"{found['name']} {found['type']}".lower(), read, held, written),
            }
        )
    kernels = kernels_of(layers, batch_range)
    kinds = {kind: sum(k["kind"] == kind for k in kernels) for kind in sorted({k["kind"] for k in kernels})}
    sizes = {name: int(total[1]) for name, pattern in TOTALS.items() if (total := pattern.search(log))}
    moved = sum(k["bytes"] for k in kernels)
    return {"kernels": len(kernels), "kinds": kinds, "moved_bytes": moved, "range": batch_range, **sizes, "layers": layers}


def kernels_of(layers: Sequence[Mapping[str, Any]], batch_range: int) -> list[Mapping[str, Any]]:
    """Those layers of a batch range that run on the GPU."""
    return [layer for layer in layers if layer["range"] == batch_range and layer["kind"] not in NOT_KERNELS]


def engine_lower_bound_ms(kernels: Sequence[Mapping[str, Any]], rates: PeakRates) -> float:
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


_Tensor = tuple[str, tuple[int, ...]]


def _tensors(text: str) -> list[_Tensor]:
    return [(kind, tuple(int(n) for n in shape.strip("[]").split(",") if n)) for shape, kind in TENSOR.findall(text)]


def _bytes(kind: str, shape: tuple[int, ...]) -> int:
    return ITEM_BYTES.get(kind, 4) * _size(shape)


def _size(shape: tuple[int, ...]) -> int:
    return prod(max(n, 1) for n in shape)


def _macs(what: str, read: list[_Tensor], held: list[_Tensor], written: list[_Tensor]) -> int:
    """Of a convolution `[O, I, k, k]`, over its output, or of a transposed one `[I, O, k, k]`, over its input; 0 of anything else."""
    if not ("corr" in what or "conv" in what) or not read or not written:
        return 0
    kernels = [s for _, s in (*read[1:], *held) if len(s) == 4 and s[0] > 0 and max(s[2:]) <= LARGEST_KERNEL]
    if not kernels:
        return 0
    kernel = max(kernels, key=_size)
    pixels = read[0][1] if "deconv" in what else written[0][1]
    return _size(pixels) * _size(kernel) // kernel[0]
