"""DLPack both ways, against NumPy's and PyTorch's own readers and writers: no copy, and memory lives as long as it is used."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from stylert.core.errors import InputError
from stylert.runtime.cuda import dlpack

torch = pytest.importorskip("torch")

DTYPES = ["uint8", "int32", "int64", "float16", "float32", "float64"]


class Lender:
    """Memory that only DLPack tells of."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **_: object) -> object:
        return dlpack.lend(self.array.ctypes.data, self.array.shape, self.array.dtype, (dlpack.CPU, 0), self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0


def some(rng: np.random.Generator, dtype: str) -> np.ndarray:
    return rng.integers(0, 100, tuple(rng.integers(1, 5, rng.integers(1, 5)))).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("take", [np.from_dlpack, torch.from_dlpack], ids=["numpy", "torch"])
def test_what_is_lent_is_the_same_memory_and_lives_until_the_borrower_is_gone(
    rng: np.random.Generator, dtype: str, take: object
) -> None:
    array = some(rng, dtype)
    lender = Lender(array)
    gone = weakref.ref(lender)
    taken = take(lender)  # type: ignore[operator]
    del lender
    gc.collect()
    assert gone() is not None
    array.reshape(-1)[0] += 1
    np.testing.assert_array_equal(np.asarray(taken), array)
    assert tuple(taken.shape) == array.shape
    del taken
    gc.collect()
    assert gone() is None


def test_a_capsule_that_nobody_takes_lets_go(rng: np.random.Generator) -> None:
    lender = Lender(some(rng, "float32"))
    gone = weakref.ref(lender)
    capsule = lender.__dlpack__()
    del lender
    assert gone() is not None
    del capsule
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_what_is_borrowed_is_the_same_memory(rng: np.random.Generator, dtype: str, library: str) -> None:
    array = some(rng, dtype)
    source = array if library == "numpy" else torch.from_numpy(array)
    held = dlpack.borrow(source.__dlpack__())
    assert (held.pointer, held.shape, held.dtype) == (array.ctypes.data, array.shape, array.dtype)
    assert held.device[0] == dlpack.CPU
    held.give_back()


def test_a_part_of_an_array_is_borrowed_where_it_begins() -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    held = dlpack.borrow(tensor[2:].__dlpack__())
    assert (held.pointer, held.shape) == (tensor[2:].data_ptr(), (2, 6))
    held.give_back()


def test_what_is_not_taken_is_one_line() -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    used = tensor.__dlpack__()
    dlpack.borrow(used).give_back()
    for bad, word in (
        (used, "taken already"),
        (object(), "not a DLPack capsule"),
        (tensor.T.__dlpack__(), "contiguous"),
        (tensor[:, ::2].__dlpack__(), "contiguous"),
        (tensor.to(torch.complex64).__dlpack__(), "plain"),
        (tensor.to(torch.bfloat16).__dlpack__(), "plain"),
    ):
        with pytest.raises(InputError, match=word):
            dlpack.borrow(bad)
