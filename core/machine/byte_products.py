"""Products of bytes in this processor's integer instructions: which sums of them saturate.

VNNI, AMX and ARM add four products of bytes in 32 bits, which is exact. x86 without them has VPMADDUBSW: it multiplies
unsigned by signed bytes, adds two products in 16 bits, and saturates. Two products of 255 and 127 exceed 16 bits.

In convolutions, the two products belong to two adjacent input channels `2 i` and `2 i + 1` at the same tap. Signed
activations are raised by 128 first. ONNX Runtime 1.31 and OpenVINO 2026.4 do exactly this
(docs/decisions/runtime-byte-products.md).
"""

from __future__ import annotations

import platform

import numpy as np

from stylert.core.machine.host import instruction_sets

#: The greatest sum of two weights of one sign that cannot saturate: 255 * 128 < 2^15 < 255 * 129.
PAIR_LIMIT = 128

#: Instructions that add products of bytes in 32 bits.
EXACT = ("avx_vnni", "avx512_vnni", "amx_int8")


def byte_pairs_saturate() -> bool:
    """Whether this processor adds products of bytes in 16 bits. True for an x86 processor that is not known."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not set(EXACT) & set(instruction_sets() or [])


def pair_sums(kernel: np.ndarray) -> np.ndarray:
    """The greatest sum of two weights of one sign that meet in 16 bits, for each output channel.

    Args:
        kernel: `[O, I, k, k]`, float or integer.

    Returns:
        `[O]`, float64, at least 0.
    """
    pairs = _pairs(kernel.astype(np.float64))
    sums = [np.maximum(sign * pairs, 0).sum(2).max((1, 2, 3), initial=0) for sign in (1, -1)]
    return np.maximum(*sums)


def limit_pairs(kernel: np.ndarray) -> np.ndarray:
    """An int8 kernel `[O, I, k, k]` in which no pair exceeds `PAIR_LIMIT`. The larger weight of a pair becomes smaller."""
    pairs = _pairs(kernel.astype(np.int16))
    for sign in (1, -1):
        excess = np.maximum(np.maximum(sign * pairs, 0).sum(2, keepdims=True) - PAIR_LIMIT, 0)
        larger = np.argmax(sign * pairs, axis=2)[:, :, None]
        np.put_along_axis(pairs, larger, np.take_along_axis(pairs, larger, 2) - sign * excess, 2)
    outputs, _, _, *taps = pairs.shape
    return pairs.reshape(outputs, -1, *taps)[:, : kernel.shape[1]].astype(np.int8)


def _pairs(kernel: np.ndarray) -> np.ndarray:
    """`[O, ceil(I / 2), 2, k, k]`. The last of an odd number of channels meets zero."""
    outputs, inputs, *taps = kernel.shape
    even = np.pad(kernel, ((0, 0), (0, inputs % 2), (0, 0), (0, 0)))
    return even.reshape(outputs, -1, 2, *taps)
