"""DLPack in both directions, against NumPy and PyTorch: there is no copy, and memory lives as long as it is used."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import InputError
from stylert.runtime.cuda import dlpack

torch = pytest.importorskip("torch")

DTYPES = ["uint8", "int32", "int64", "float16", "float32", "float64"]


class Producer:
    """An array that supports DLPack and nothing else."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **_: object) -> object:
        return dlpack.to_capsule(self.array.ctypes.data, self.array.shape, self.array.dtype, (dlpack.CPU, 0), self)

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0


def random_array(rng: np.random.Generator, dtype: str) -> np.ndarray:
    """An array of random numbers with one to four axes."""
    return rng.integers(0, 100, tuple(rng.integers(1, 5, rng.integers(1, 5)))).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("importer", [np.from_dlpack, torch.from_dlpack], ids=["numpy", "torch"])
def test_exported_memory_is_the_same_and_lives_until_the_importer_is_gone(
    rng: np.random.Generator, dtype: str, importer: Any
) -> None:
    array = random_array(rng, dtype)
    producer = Producer(array)
    alive = weakref.ref(producer)
    imported = importer(producer)
    del producer
    gc.collect()
    assert alive() is not None
    array.reshape(-1)[0] += 1
    np.testing.assert_array_equal(np.asarray(imported), array)
    assert tuple(imported.shape) == array.shape
    del imported
    gc.collect()
    assert alive() is None


def test_a_capsule_that_nobody_takes_releases_its_owner(rng: np.random.Generator) -> None:
    producer = Producer(random_array(rng, "float32"))
    alive = weakref.ref(producer)
    capsule = producer.__dlpack__()
    del producer
    assert alive() is not None
    del capsule
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_imported_memory_is_the_same(rng: np.random.Generator, dtype: str, library: str) -> None:
    array = random_array(rng, dtype)
    source = array if library == "numpy" else torch.from_numpy(array)
    imported = dlpack.from_capsule(source.__dlpack__())
    assert (imported.pointer, imported.shape, imported.dtype) == (array.ctypes.data, array.shape, array.dtype)
    assert imported.device[0] == dlpack.CPU
    imported.release()


def test_a_part_of_an_array_is_imported_from_its_first_element() -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    imported = dlpack.from_capsule(tensor[2:].__dlpack__())
    assert (imported.pointer, imported.shape) == (tensor[2:].data_ptr(), (2, 6))
    imported.release()


def test_arrays_that_cannot_be_taken_are_refused_in_one_line() -> None:
    tensor = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    used = tensor.__dlpack__()
    dlpack.from_capsule(used).release()
    for bad, word in (
        (used, "taken already"),
        (object(), "not a DLPack capsule"),
        (tensor.T.__dlpack__(), "contiguous"),
        (tensor[:, ::2].__dlpack__(), "contiguous"),
        (tensor.to(torch.complex64).__dlpack__(), "plain"),
        (tensor.to(torch.bfloat16).__dlpack__(), "plain"),
    ):
        with pytest.raises(InputError, match=word):
            dlpack.from_capsule(bad)
