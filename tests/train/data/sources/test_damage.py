"""Damage anywhere in a source gives an error of one line, or a dataset that can be read, in little time and memory."""

import contextlib
import resource
import shutil
import signal
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.core.errors import StylertError
from stylert.train.data.dataset import ImageDataset
from stylert.train.data.dataset_tool import convert_dataset
from tests.draws import fuzz_budget
from tests.train.data.sources.source_files import cifar_tar, encoded, idx_files, python2_pickle, table_of

#: Seconds of the processor, and bytes, that one damaged source may take.
MAX_SECONDS, MAX_MEMORY = 10, 2**30


@pytest.fixture
def pictures(pixels):
    """`pixels` with a short representation, because hypothesis prints what it draws."""
    return type("Pictures", (), {"all": pixels, "__repr__": lambda self: "pictures"})()


@contextlib.contextmanager
def bounded():
    """Fail where the content takes more than `MAX_SECONDS` or `MAX_MEMORY` in this process."""

    def stop(number, frame):
        raise AssertionError(f"more than {MAX_SECONDS} s")

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before, memory = signal.signal(signal.SIGVTALRM, stop), peak()
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert peak() - memory < MAX_MEMORY


def check(path: Path, damaged: Path, cut, flips, copies, skip_corrupt):
    """Damage the file, convert the source at `path`, and check what comes out."""
    raw = bytearray(damaged.read_bytes())
    for start, target, length in copies:
        part = raw[int(start * len(raw)) :][:length]
        position = int(target * len(raw))
        raw[position : position + len(part)] = part
    for position, mask in flips:
        raw[int(position * len(raw))] ^= mask
    damaged.write_bytes(raw if cut is None else raw[: int(cut * len(raw)) + 1])
    out = path.with_name("fuzzed.zip")
    out.unlink(missing_ok=True)
    with bounded():
        try:
            count = convert_dataset(path, out, 32, "pad", skip_corrupt=skip_corrupt).images
        except StylertError as e:
            assert "\n" not in str(e)
            assert not out.exists()
        else:
            assert len(ImageDataset(out)) == count
        if path.suffix == ".zip":
            try:
                ImageDataset(path, use_labels=True)
            except StylertError as e:
                assert "\n" not in str(e)
    assert not list(path.parent.glob(".*"))


position = st.floats(0, 0.999)
damage = {
    "cut": st.none() | position,
    "flips": st.lists(st.tuples(position, st.integers(1, 255)), max_size=4),
    "copies": st.lists(st.tuples(position, position, st.integers(1, 64)), max_size=2),
    "skip_corrupt": st.booleans(),
}


def fuzzed(normal, fuzz):
    """Settings of hypothesis with this many examples."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(deadline=None, max_examples=fuzz_budget(normal, fuzz), suppress_health_check=checks)


@fuzzed(80, 3000)
@given(form=st.sampled_from(["zip", "idx", "idx gz", "cifar"]), **damage)
def test_damage_gives_one_line_or_a_dataset(pictures, tmp_path, write_dataset, form, cut, flips, copies, skip_corrupt):
    if form == "zip":
        labels = [["a.png", 0], ["b.tif", 1], ["c.webp", 1]]
        files = {
            "a.png": pictures.all[0],
            "b.tif": encoded(pictures.all[1], "tiff"),
            "c.webp": encoded(pictures.all[2], "webp"),
        }
        path = write_dataset(files, labels)
    elif form.startswith("idx"):
        path = idx_files(tmp_path, np.zeros((2, 28, 28), np.uint8), [1, 2], zipped=form == "idx gz")
    else:
        batch = b"\x80\x02" + python2_pickle({"labels": [1, 2], "data": np.zeros((2, 3072), np.uint8)}) + b"."
        path = cifar_tar(tmp_path / "cifar-10-python.tar.gz", {"data_batch_1": batch})
    check(path, path, cut, flips, copies, skip_corrupt)


@fuzzed(8, 1000)
@given(form=st.sampled_from(["parquet", "stream.arrow", "file.arrow", "lmdb"]), **damage)
def test_damage_of_a_native_format_gives_one_line_or_a_dataset(pictures, tmp_path, form, cut, flips, copies, skip_corrupt):
    path = tmp_path / f"x.{form}"
    table = table_of(pictures.all, [1] * 5)
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "lmdb":
        shutil.rmtree(path, ignore_errors=True)  # the damaged one of the example before
        with lmdb.open(str(path), map_size=2**20) as database, database.begin(write=True) as transaction:
            for i, x in enumerate(pictures.all):
                transaction.put(str(i).encode(), encoded(x))
    else:
        with (pa.ipc.new_stream if form == "stream.arrow" else pa.ipc.new_file)(str(path), table.schema) as writer:
            writer.write_table(table)
    check(path, path / "data.mdb" if form == "lmdb" else path, cut, flips, copies, skip_corrupt)
