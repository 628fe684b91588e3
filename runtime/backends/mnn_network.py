"""Converts a bundle's network into MNN's format, with the converter in MNN's wheel.

The converter runs in a process of its own, because it prints on the standard output and ends the process on some files.
It is the native module `_tools`. MNN's command `mnnconvert` is never used: it installs a package of Alibaba's with pip,
and then reports the conversion to Alibaba.
"""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.child_processes import python_command
from stylert.core.errors import BundleError, OutputError, missing_extra
from stylert.core.files.temporary import temporary_folder
from stylert.runtime.lowering import lower
from stylert.runtime.network_files import parsed

#: The converter's options for each precision. The weights of fp16 networks are float16, those of int8 networks have 8 bits.
#: Symmetric levels are those of the bundle, so these weights are not rounded a second time.
OPTIONS = {"fp32": (), "fp16": ("--fp16",), "int8": ("--weightQuantBits", "8", "--weightQuantAsymmetric", "0")}

#: The converter's module, a part of MNN's wheel. It returns True for failures as well.
CONVERTER = "_tools"
CONVERT = ("-c", f"import sys, {CONVERTER}; {CONVERTER}.mnnconvert(sys.argv)")


def convert(network: Path, precision: str, destination: Path) -> None:
    """Write an ONNX network in MNN's format.

    Args:
        network: The ONNX file.
        precision: A key of `OPTIONS`.
        destination: The file to write.

    Raises:
        BundleError: The file cannot be read, or the converter refuses it.
        OutputError: `destination` cannot be written.
        BackendError: As `lower`.
    """
    import onnx
    from onnx import numpy_helper

    with temporary_folder("mnn") as folder:
        plain, converted = folder / "plain.onnx", folder / "converted.mnn"
        model = parsed(lower(network, plain))
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        _pad_every_axis(model.graph, constants)
        _remove_quantization(model.graph, constants, network)
        try:
            onnx.save(model, plain)
        except OSError as e:
            raise OutputError(f"cannot write {plain}: {e.strerror or e}") from None
        try:
            run_converter(plain, converted, OPTIONS[precision])
        except BundleError:
            raise BundleError(f"MNN cannot convert {network}") from None
        try:
            destination.write_bytes(converted.read_bytes())
        except OSError as e:
            raise OutputError(f"cannot write {destination}: {e.strerror or e}") from None


def run_converter(plain: Path, destination: Path, options: Sequence[str] = ()) -> None:
    """Run MNN's converter on an ONNX file of plain operators.

    Raises:
        BackendError: MNN is not installed.
        BundleError: It writes no file.
    """
    if importlib.util.find_spec(CONVERTER) is None:
        raise missing_extra("MNN", "mnn")
    arguments = ("-f", "ONNX", "--modelFile", plain, "--MNNModel", destination, *options)
    subprocess.run(python_command(*CONVERT, *arguments), capture_output=True, check=False)
    if not destination.is_file() or not destination.stat().st_size:
        raise BundleError(f"MNN cannot convert {plain}")


def _pad_every_axis(graph: Any, constants: dict[str, np.ndarray]) -> None:
    """Write the pads of each Pad node for all four axes: MNN does not read the input `axes`."""
    from onnx import numpy_helper

    for node in graph.node:
        if node.op_type == "Pad" and len(node.input) > 3:
            pads = np.zeros((2, 4), np.int64)
            pads[:, constants[node.input[3]]] = constants[node.input[1]].reshape(2, -1)
            name = f"{node.output[0]}.pads"
            graph.initializer.append(numpy_helper.from_array(pads.reshape(-1), name))
            node.input[1] = name
            del node.input[3:]


def _remove_quantization(graph: Any, constants: dict[str, np.ndarray], network: Path) -> None:
    """Keep the 8-bit weights of Q/DQ nodes as float numbers, and leave activations in float.

    MNN's converter reads no Q/DQ nodes, not even around a single convolution (docs/decisions/runtime-mnn.md). It then
    stores these weights in 8 bits again.
    """
    from onnx import helper, numpy_helper

    nodes = []
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            nodes.append(node)
            continue
        if node.input[1] not in constants:
            raise BundleError(f"{network} computes scales of its quantisation, which MNN cannot run; export it again")
        if node.input[0] in constants:
            graph.initializer.append(numpy_helper.from_array(_dequantized(node, constants), node.output[0]))
        else:
            nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
    del graph.node[:]
    graph.node.extend(nodes)


def _dequantized(node: Any, constants: dict[str, np.ndarray]) -> np.ndarray:
    """The float value of a DequantizeLinear node of constants."""
    value, scale = constants[node.input[0]], constants[node.input[1]]
    zero_point = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros_like(scale)
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.size > 1:
        shape = [-1 if i == axis % value.ndim else 1 for i in range(value.ndim)]
        scale, zero_point = scale.reshape(shape), zero_point.reshape(shape)
    levels = value.astype(np.float32) - zero_point.astype(np.float32)
    return np.asarray(levels * scale.astype(np.float32), scale.dtype)
