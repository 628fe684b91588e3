"""NumPy's files are read without trust: no pickle, no memory that the bytes do not have."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.core.errors import DataError
from stylert.core.files.npy_files import npy_bytes, read_npy, write_npz


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8, np.int16, ">f4"])
def test_an_array_comes_back_as_it_was(rng: np.random.Generator, dtype: str) -> None:
    array = (rng.standard_normal((2, 3, 4)) * 50).astype(dtype)
    for stored in (array, np.asfortranarray(array)):
        file = io.BytesIO()
        np.save(file, stored)
        np.testing.assert_array_equal(read_npy(file.getvalue(), "a.npy", DataError), array)
    np.testing.assert_array_equal(np.load(io.BytesIO(npy_bytes(array)), allow_pickle=False), array)


def test_a_pickle_is_refused_and_never_run() -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return exit, (3,)

    file = io.BytesIO()
    np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="object"):
        read_npy(file.getvalue(), "a.npy", DataError)


@given(st.data())
def test_damaged_bytes_are_one_line(data: st.DataObject) -> None:
    good = bytearray(npy_bytes(np.arange(12, dtype=np.float32).reshape(3, 4)))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        assert read_npy(damaged, "a.npy", DataError).nbytes <= len(damaged)
    except DataError as e:
        assert "\n" not in str(e)


def test_a_header_that_declares_more_than_follows_takes_no_memory() -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**20)})
    with pytest.raises(DataError, match="0 bytes follow"):
        read_npy(file.getvalue(), "a.npy", DataError)


def test_an_archive_is_read_by_numpy_and_has_the_same_bytes_again(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = {"images": rng.standard_normal((2, 3)).astype(np.float32), "recipe": np.array('{"a": 1}')}
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        assert {name: loaded[name].tolist() for name in loaded} == {name: a.tolist() for name, a in arrays.items()}
    assert zipfile.ZipFile(tmp_path / "a.npz").comment == b"stylert"
