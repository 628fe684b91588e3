"""Damaged files, made from whole ones: cut, flipped, spliced, repeated, nested."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Sequence

import numpy as np

#: Numbers at which lengths and counts go wrong.
NUMBERS = (0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**48, 2**62, 2**63, 2**64 - 1)
#: Pieces of the formats: opcodes, beginnings of containers, and JSON.
PIECES = (
    *(bytes([op[0]]) for op in (pickle.MARK, pickle.STOP, pickle.REDUCE, pickle.BUILD, pickle.TUPLE2, pickle.EMPTY_DICT, pickle.SETITEMS)),
    *(b"\x80\x02", b"\x80\x04", b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"\x95", b"c_codecs\nencode\n", b"ctorch\nSize\n"),
    *(b"null", b"[[[[", b'{"', b"1e999", b"NaN", b"9" * 50, b'"\\u0000"', b"-1", b"\xff\xfe", b"\x00" * 8),
)  # fmt: skip


def damaged(rng: np.random.Generator, whole: Sequence[bytes], rounds: int = 3) -> bytes:
    """A damaged copy of one of the whole files, with up to `rounds` kinds of damage."""
    data = bytearray(whole[rng.integers(len(whole))])
    for _ in range(rng.integers(1, rounds + 1)):
        at = _position(rng, len(data))
        end = min(at + int(2 ** rng.uniform(0, 12)), len(data))
        other = whole[rng.integers(len(whole))]
        piece = PIECES[rng.integers(len(PIECES))]
        match rng.integers(10):
            case 0:
                del data[at:]
            case 1:
                del data[at:end]
            case 2 if data:
                data[min(at, len(data) - 1)] ^= 1 << int(rng.integers(8))
            case 3 if data:
                data[min(at, len(data) - 1)] = int(rng.integers(256))
            case 4:
                begin = _position(rng, len(other))
                data[at:end] = other[begin : begin + end - at]
            case 5:
                data[at:at] = bytes(data[at:end]) * int(rng.integers(1, 50))
            case 6:
                number = struct.pack("<Q", NUMBERS[rng.integers(len(NUMBERS))])[: 2 ** int(rng.integers(4))]
                data[at : at + len(number)] = number
            case 7:
                data[at : at + len(piece)] = piece
            case 8:
                data[at:at] = piece
            case _:
                inner = bytes(data[:4096])
                data[at:at] = pickle.BINBYTES + struct.pack("<I", len(inner)) + inner
    return bytes(data[: 2**22])


def _position(rng: np.random.Generator, length: int) -> int:
    """A position in a file, more often near its ends, where headers and directories are."""
    near = int(rng.exponential(200))
    return min(max(int(rng.choice([near, length - near, rng.integers(length + 1)])), 0), length)
