"""Gives an 8-bit network unsigned numbers in place of signed ones, for ONNX Runtime on processors without VNNI.

There, products of an unsigned and a signed byte are added in 16 bits, where they saturate. Products of two unsigned bytes are added
in 32 bits on every processor. ONNX Runtime does the same by its option `session.x64quantprecision`, but not every program that opens
a network lets a user set it.

A number q of a zero point z becomes q + 128 of z + 128. So the network computes the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

#: The sign bit of a byte. To flip it adds 128 to a signed byte that is then read as an unsigned one.
SIGN_BIT = np.uint8(0x80)


def make_unsigned(model: onnx.ModelProto) -> int:
    """Change a network in place, so that all its 8-bit integers are unsigned.

    Args:
        model: A network whose int8 tensors are those of QuantizeLinear and DequantizeLinear.

    Returns:
        The number of constants that were changed.
    """
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    changed = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.INT8]
    for tensor in changed:
        values = numpy_helper.to_array(tensor).view(np.uint8) ^ SIGN_BIT
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    del graph.value_info[:]  # it has the types of before
    return len(changed)
