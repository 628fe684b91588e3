"""Files of native libraries are read in a process of their own, whose end is an error of one line."""

import multiprocessing
import os
import signal
import subprocess
import sys

import lmdb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stylert.core.errors import BackendError, DataError
from stylert.train.data.dataset_tool import convert_dataset
from stylert.train.data.sources import native
from tests.train.data.sources.source_files import labels_of, refusal, table_of

START = """
import os, signal, sys, time
from stylert.train.data.sources import reading_process
from stylert.train.data.sources.messages import *
pipe = os.fdopen(1, "wb")
def send(*arguments, **options): write_message(pipe, Message(*arguments, **options))
"""


@pytest.fixture
def reading(tmp_path, monkeypatch):
    """A function that replaces the reading process by a program."""

    def replace(program):
        (tmp_path / "replaced_reader.py").write_text(START + program)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(native, "MODULE", "replaced_reader")
        (tmp_path / "x.parquet").touch()
        return tmp_path / "x.parquet"

    return replace


def children():
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended with SIGSEGV"),
        ("send(Kind.COUNT, 2); os.abort()", "ended with SIGABRT"),
        ("send(Kind.COUNT, 1); pipe.write(b'\\xff' * 999)", "no message of a known form"),
        ("send(Kind.COUNT, 1); pipe.write(HEADER.pack(2, 0, 0, 2**60) + bytes(99))", "no message of a known form"),
        ("send(Kind.COUNT, 1); send(Kind.END)", "fewer pictures than it declares"),
        ("send(Kind.COUNT, 10**12)", "declares 1000000000000 pictures"),
        ("send(Kind.COUNT, 0)", "no pictures"),
        ("reading_process.limit_cpu_time(0.05)\nwhile True: pass", "came to no end"),
        ("reading_process.limit_memory(reading_process.MAX_MEMORY)\nreading_process._open = lambda *a: bytearray(2**31)\n"
         "reading_process._send('lmdb', 'x.mdb', [], pipe)", "x.mdb cannot be read: a part of it needs more than 1024 MiB"),
    ],
)  # fmt: skip
def test_the_end_of_the_reading_process_is_one_line(reading, out, program, message, monkeypatch):
    monkeypatch.setattr(native, "END_SECONDS", 1)
    source, before = reading(program), children()
    text = refusal(DataError, source, out, 16)
    assert message in text
    assert "x." in text
    assert children() == before
    assert not out.parent.exists() or not list(out.parent.iterdir())


def test_an_unexpected_error_of_the_reading_process_shows_its_traceback(reading, out):
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        convert_dataset(reading("1 / 0"), out, 16)


def test_a_missing_library_names_the_extra(tmp_path, out, monkeypatch):
    monkeypatch.setattr(native.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "x.parquet").touch()
    with pytest.raises(BackendError, match=r"pyarrow.*stylert\[datasets\]"):
        convert_dataset(tmp_path / "x.parquet", out, 16)


def test_a_part_of_a_table_leaves_no_process_behind(pixels, tmp_path, out):
    table = pa.concat_tables([table_of(pixels, [1] * 5)] * 200)
    pq.write_table(table, tmp_path / "x.parquet")
    before = children()
    assert convert_dataset(tmp_path / "x.parquet", out, 16, max_images=2) == (2, [], 2)
    assert children() == before


def test_modules_in_the_working_folder_are_not_imported(pixels, tmp_path, out, monkeypatch):
    pq.write_table(table_of(pixels), tmp_path / "x.parquet")
    (tmp_path / "pyarrow.py").write_text("raise SystemExit(7)")
    (tmp_path / "json.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert convert_dataset(tmp_path / "x.parquet", out, 16).images == 5


def test_an_lmdb_that_was_cut_is_one_line(pixels, tmp_path, out):
    database = lmdb.open(str(tmp_path / "l"), map_size=2**24)
    with database.begin(write=True) as transaction:
        for i in range(200):
            transaction.put(f"{i:04d}".encode(), bytes(4000))
    database.close()
    os.truncate(tmp_path / "l" / "data.mdb", 3 * 4096)
    assert str(tmp_path / "l") in refusal(DataError, tmp_path / "l", out, 16)


def test_arrow_offsets_outside_of_the_file_are_one_line(pixels, tmp_path, out):
    """Such a file ended the process with SIGSEGV, or its pixels were those of other memory."""
    table = table_of(pixels, plain=True)
    with pa.ipc.new_stream(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    data = (tmp_path / "x.arrow").read_bytes()
    offsets = np.concatenate([[0], np.cumsum([len(v) for v in table["image"].to_pylist()])]).astype("<i4").tobytes()
    assert offsets in data
    (tmp_path / "x.arrow").write_bytes(data.replace(offsets, offsets[:-4] + b"\xff\xff\xff\x7f"))
    assert "cannot be read" in refusal(DataError, tmp_path / "x.arrow", out, 16)


def test_negative_labels_of_hugging_face_are_no_labels_and_large_ones_are_refused(pixels, tmp_path, out):
    pq.write_table(table_of(pixels, [-1] * 5), tmp_path / "x.parquet")
    assert convert_dataset(tmp_path / "x.parquet", out, 16).c_dim == 0
    assert labels_of(out) is None
    for large in (65536, 10**15):
        pq.write_table(table_of(pixels, [0, 0, large, 0, 0]), tmp_path / "x.parquet")
        assert "no class index" in refusal(DataError, tmp_path / "x.parquet", tmp_path / "y.zip", 16)


PROGRAM = """
import sys
from stylert.train.data.dataset_tool import convert_dataset
print("started", flush=True)
convert_dataset(sys.argv[1], sys.argv[2], 16, progress=lambda stage, done, total: print(done, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_reading_process_ends_with_the_process_that_started_it(pixels, tmp_path, number):
    pq.write_table(pa.concat_tables([table_of(pixels)] * 20_000), tmp_path / "x.parquet")
    arguments = [sys.executable, "-c", PROGRAM, str(tmp_path / "x.parquet"), str(tmp_path / "x.zip")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while process.stdout.readline().strip() != "5":
            assert process.poll() is None
        (child,) = psutil.Process(process.pid).children()
        process.send_signal(number)
        process.communicate(timeout=60)  # it may still have lines to print, and the pipe be full
    gone, alive = psutil.wait_procs([child], timeout=20)
    assert gone
    assert not alive


def _convert(arguments):
    return convert_dataset(*arguments, 16).images


def test_a_table_is_read_in_a_spawned_worker_too(pixels, tmp_path):
    pq.write_table(table_of(pixels), tmp_path / "x.parquet")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_convert, [(tmp_path / "x.parquet", tmp_path / "x.zip")]) == [5]
