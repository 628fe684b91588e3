"""Small files that ask for much work or memory are refused before the work is done."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stylert.models.importers import budget as budget_module
from stylert.models.importers.archive import read_pickle
from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError
from tests.models.importers.contained import Outcome, Reader, contained_reader

LEGACY = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with contained_reader() as reader:
        yield reader


@pytest.fixture
def refusal(reader, tmp_path):
    """`refusal(data)` reads a file of these bytes in little memory and time, and returns the line that refuses it."""

    def read(data: bytes) -> str:
        path = tmp_path / "x.pkl"
        path.write_bytes(data)
        outcome: Outcome = reader.read(path)
        outcome.check()
        assert outcome.refusal is not None
        assert outcome.memory < 200 * 2**20
        return outcome.refusal

    return read


def text(value: str) -> bytes:
    raw = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw


def name(module: str, attribute: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def remembered(index: int) -> bytes:
    return pickle.BINGET + bytes([index])


def remember(index: int) -> bytes:
    return pickle.BINPUT + bytes([index])


PICKLE = b"\x80\x02"
ENCODE = name("_codecs", "encode") + remember(0)
TENSOR = name("torch._utils", "_rebuild_tensor_v2") + remember(0)
ARRAY = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
FLOAT32 = (
    name("numpy", "dtype") + text("f4") + b"K\x00K\x01\x87R(K\x03" + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
FLOAT_STORAGE = text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + b"K\x01"


def test_one_string_is_not_encoded_many_times(refusal):
    arguments = text("a" * 60_000) + text("latin1") + b"\x86" + remember(1)
    data = PICKLE + ENCODE + arguments + b"(" + (remembered(0) + remembered(1) + b"R") * 100_000 + b"l."
    assert "more texts and tensors" in refusal(data)


def test_one_nested_file_is_not_read_many_times(refusal):
    nested = LEGACY + PICKLE + text("a" * 500_000) + b"0N." + b"\x80\x02]."
    value = pickle.BINBYTES + struct.pack("<I", len(nested)) + nested + b"\x85" + remember(1)
    load = name("torch.storage", "_load_from_bytes") + remember(0)
    refusal(PICKLE + load + value + b"(" + (remembered(0) + remembered(1) + b"R0") * 20_000 + b"l.")


@pytest.mark.parametrize("factor", [2**61 - 1, 2**40, 2**64])
def test_integers_whose_hashes_collide_do_not_slow_a_dictionary(refusal, factor):
    keys = b"".join(b"\x8a\x10" + (factor * (i + 1)).to_bytes(16, "little") + b"N" for i in range(100_000))
    refusal(PICKLE + b"}(" + keys + b"u.")


def test_a_long_text_of_wide_characters_is_refused_before_it_is_decoded(reader, tmp_path):
    """Python keeps four bytes for each character of a text with an emoji. The file is a hole of 250 MiB, and takes 8 kB of the disk."""
    wide, hole = "\N{GRINNING FACE}".encode(), 250 * 2**20
    with open(tmp_path / "x.pkl", "wb") as file:
        file.write(b"\x80\x04" + pickle.BINUNICODE8 + struct.pack("<Q", hole + len(wide)))
        file.seek(hole, os.SEEK_CUR)
        file.write(wide + b".")
    outcome = reader.read(tmp_path / "x.pkl")
    outcome.check()
    assert "a text of 250 MiB with characters beyond Latin-1" in outcome.refusal
    assert outcome.memory < hole + 50 * 2**20  # the pages of the file itself


def test_holes_of_a_file_allow_no_memory(reader, tmp_path):
    """A hole takes no space on a disk. A text of 250 MiB in it would take as much memory, and a tensor up to four times that."""
    hole = 250 * 2**20
    with open(tmp_path / "x.pkl", "wb") as file:
        file.write(b"\x80\x04" + pickle.BINUNICODE8 + struct.pack("<Q", hole))
        file.seek(hole, os.SEEK_CUR)
        file.write(b".")
    outcome = reader.read(tmp_path / "x.pkl")
    outcome.check()
    assert "more texts and tensors than its bytes can hold" in outcome.refusal


def test_a_text_that_no_checkpoint_has_is_refused_before_it_is_looked_at(reader, tmp_path):
    with open(tmp_path / "x.pkl", "wb") as file:
        file.write(b"\x80\x04" + pickle.BINUNICODE8 + struct.pack("<Q", 900 * 2**20))
        file.truncate(901 * 2**20)
    outcome = reader.read(tmp_path / "x.pkl")
    outcome.check()
    assert "a text of 900 MiB" in outcome.refusal
    assert outcome.memory < 50 * 2**20


@pytest.mark.parametrize("character", ["a", "\xff", "\u0100", "\u7fff", "\ud800", "\N{GRINNING FACE}"])
def test_a_text_counts_as_the_memory_that_python_keeps_for_it(character):
    raw = (character * 1000).encode(errors="surrogatepass")
    budget = Budget(2**20)
    before = budget.bytes
    data = b"\x80\x04" + pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw + b"."
    value = read_pickle(memoryview(data), budget)
    assert value == character * 1000
    header = sys.getsizeof("\u7fff") - 4  # of a text, beside its characters
    assert sys.getsizeof(value) - header <= before - budget.bytes <= 4 * len(raw)


def test_texts_are_bounded_whatever_the_size_of_the_file(monkeypatch):
    """A file of holes has a size that costs nothing, so its size is no measure of the memory that it may take."""
    monkeypatch.setattr(budget_module, "MAX_TEXTS", 10_000)
    many = PICKLE + b"](" + text("a" * 1000) * 10 + b"e."
    assert len(read_pickle(memoryview(many), Budget(2**33))) == 10
    encoded = ENCODE + b"0" + text("a" * 1000) + text("latin1") + b"\x86" + remember(1) + b"0"
    calls = b"](" + (remembered(0) + remembered(1) + b"R") * 9 + b"e."
    for data in (PICKLE + b"](" + text("a" * 1000) * 11 + b"e.", PICKLE + encoded + calls):
        with pytest.raises(FormatError, match="MiB of texts"):
            read_pickle(memoryview(data), Budget(2**33))


def test_long_keys_are_refused(refusal):
    one = text("a" * 500_000) + remember(0) + text("a" * 500_000) + remember(1)
    assert "500000 characters" in refusal(
        PICKLE + one + b"00}(" + (remembered(0) + b"N" + remembered(1) + b"N") * 80_000 + b"u."
    )


def test_memo_entries_far_beyond_the_number_of_opcodes_are_refused(refusal):
    assert "memo entry" in refusal(PICKLE + b"Nr" + struct.pack("<I", 2**20) + b".")


@pytest.mark.parametrize("length", [9, 10_000, 200_000])
def test_arrays_of_many_dimensions_are_refused(refusal, length):
    data = PICKLE + ARRAY + b"(K\x01(" + b"K\x01" * length + b"t" + FLOAT32 + b"\x89C\x04\0\0\0\0tb."
    assert f"{length} dimensions" in refusal(data)


def test_tensors_of_many_dimensions_are_refused_at_the_first_call(refusal):
    storage = b"(" + FLOAT_STORAGE + b"tQ"
    arguments = b"(" + storage + b"K\x00(" + b"K\x01" * 100_000 + b"tq\x02h\x02\x89}t" + remember(1)
    data = PICKLE + TENSOR + arguments + b"(" + (remembered(0) + remembered(1) + b"R") * 80_000 + b"l."
    assert "100000 dimensions" in refusal(LEGACY + data + b"\x80\x02].")


def test_references_of_many_parts_are_refused_at_the_first(refusal):
    reference = b"(" + FLOAT_STORAGE + b"N" * 100_000 + b"t" + remember(0)
    data = PICKLE + reference + b"(" + (remembered(0) + b"Q") * 150_000 + b"l."
    assert "unknown form" in refusal(LEGACY + data + b"\x80\x02].")


def test_long_folder_names_of_an_archive_are_not_joined_for_each_tensor(reader, tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as z:
        root = "a" * 65_000
        reference = b"(" + FLOAT_STORAGE + b"t" + remember(0)
        z.writestr(f"{root}/data.pkl", PICKLE + reference + b"(" + (remembered(0) + b"Q") * 200_000 + b"l.")
        z.writestr(f"{root}/data/0", bytes(4))
    reader.read(path).check()


def test_many_tensors_of_one_network_are_refused(refusal, foreign, nets):
    g, _, _ = nets()
    record = foreign.official_record(g, g.cfg)
    buffers = {f"{'b' * 150}{i}": foreign.tensor_record(g.mapping.w_avg) for i in range(200)}
    leaf = foreign.official_module("Leaf", {"_parameters": {}, "_buffers": buffers, "_modules": {}})
    modules = record.args[0]["state"]["_modules"]["mapping"].args[0]["state"]["_modules"]
    modules |= {f"{'m' * 150}{i}": leaf for i in range(12)}
    assert "more than 2000 tensors" in refusal(foreign.PickleWriter(4).dumps({"G_ema": record}))


def test_long_names_of_tensorflow_variables_are_refused(refusal, foreign, nets):
    g, _, _ = nets()
    network = foreign.tensorflow_generator(foreign.numpy_state(g), foreign.tensorflow_arguments(g.cfg))
    for variables, reason in (([("a" * 100_000, 1.0)], "100000 characters"), ([("a", 1.0)] * 10_000, "at most 2000")):
        network.state["variables"] = variables
        assert reason in refusal(foreign.PickleWriter(3).dumps((network,) * 3))


def test_long_filters_are_refused_before_their_square_is_made(refusal, foreign, nets):
    g, _, _ = nets()
    network = foreign.tensorflow_generator(
        foreign.numpy_state(g), foreign.tensorflow_arguments(g.cfg) | {"resample_kernel": [1.0] * 30_000}
    )
    assert "64 taps" in refusal(foreign.PickleWriter(3).dumps((network,) * 3))


def test_noise_that_the_file_does_not_hold_counts_as_memory(refusal, foreign, nets):
    """Without its noise, a 2048 px network of one channel fits into a few kB, but its noise inputs need 44 MB."""
    g, _, _ = nets(resolution=2048, channel_base=2048, channel_max=1, z_dim=7)
    state = {k: v for k, v in foreign.rosinality_generator(g.state_dict()).items() if not k.startswith("noises.")}
    assert "more texts and tensors" in refusal(foreign.PickleWriter(2).dumps({"g_ema": state}))


def test_many_unknown_entries_make_a_few_notes(foreign, nets, tmp_path):
    from stylert.models.importers.import_checkpoint import import_checkpoint

    g, _, _ = nets()
    path = tmp_path / "x.pkl"
    entries = {f"entry {i}": None for i in range(50_000)}
    path.write_bytes(foreign.PickleWriter(4).dumps({"G_ema": foreign.official_record(g, g.cfg), **entries}))
    notes = import_checkpoint(path).notes
    assert len(notes) < 20
    assert "dropped 49990 more entries" in notes


def test_devices_and_pipes_are_refused_at_once(reader, tmp_path):
    os.mkfifo(tmp_path / "pipe.pkl")
    for path in (tmp_path / "pipe.pkl", Path("/dev/zero")):
        outcome = reader.read(path)
        outcome.check()
        assert "is not a regular file" in outcome.refusal


def test_the_container_of_these_tests_finds_too_much_memory_time_and_other_errors(tmp_path) -> None:
    """Without this, a broken measurement would let everything pass."""
    fine = Outcome(None, 1000, None)
    fine.check()
    for bad in (Outcome(None, 2**30, None), Outcome(None, 0, "Traceback"), Outcome("it is damaged (MemoryError)", 0, None)):
        with pytest.raises(AssertionError):
            bad.check()
