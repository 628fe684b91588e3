"""Damaged files of every layout are read or refused in one line, in little time and memory."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stylert.models.checkpoint import write_generator
from stylert.models.importers.allow_list import allow_list
from stylert.models.importers.budget import Budget
from stylert.models.importers.records import Storage
from tests.draws import fresh, fuzz_budget
from tests.models.importers.contained import contained_reader
from tests.models.importers.mutations import PIECES, damaged
from tests.models.importers.stylegan1_files import (
    rosinality_state,
    tensorflow_arguments,
    tensorflow_file,
    tensorflow_variables,
    torch_file,
)
from tests.models.stylegan1.tiny import tiny_config

LAYOUTS = ["official", "official-single", "rosinality", "rosinality-legacy", "tensorflow", "tensorflow-1", "port-1", "stylert"]
#: Bytes of the longest file that atheris tries.
MAX_LENGTH = 2**18


def names_as_opcodes() -> list[bytes]:
    """Every name of the allow-list as the opcode that mentions it."""
    return [
        b"c%s\n%s\n" % (module.encode(), name.encode())
        for module, name in allow_list(lambda data: Storage("FloatStorage", 0), Budget(0))
    ]


def libfuzzer_text(data: bytes) -> str:
    """Bytes as a dictionary of libFuzzer writes them."""
    return "".join(f"\\x{byte:02x}" for byte in data)


@pytest.fixture
def whole(nets, foreign, tmp_path):
    """`whole(layout)` is a small valid file of a layout."""

    def make(layout: str) -> bytes:
        g, raw, d = nets(z_dim=7, c_dim=0, channel_base=16, channel_max=3)
        path = tmp_path / "whole.bin"
        match layout:
            case "official":
                foreign.official_file(path, g, raw, d)
            case "official-single":
                path.write_bytes(foreign.PickleWriter(4).dumps(foreign.official_record(g, g.cfg)))
            case "tensorflow":
                foreign.tensorflow_file(path, g, raw, d)
            case "tensorflow-1":
                cfg = tiny_config(resolution=8)
                tensorflow_file(path, tensorflow_variables(cfg, 1), tensorflow_arguments(cfg))
            case "port-1":
                torch_file(path, {"g_running": rosinality_state([2, 2, 1], 2, 3, 1, 1)})
            case "stylert":
                write_generator(path, g.cfg, {k: v.numpy() for k, v in g.state_dict().items()}, info={"kimg": 3})
            case _:
                rosinality_d = nets({"mbstd_group_size": 4})[2]
                foreign.rosinality_file(path, g, None, rosinality_d, legacy=layout.endswith("legacy"))
        return path.read_bytes()

    return make


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_files_are_read_or_refused(whole, tmp_path, layout):
    rng = fresh()
    # A piece of another layout now and then.
    files = [whole(layout)] * 9 + [whole(LAYOUTS[int(rng.integers(len(LAYOUTS)))])]
    path = tmp_path / "damaged.bin"
    with contained_reader() as reader:
        path.write_bytes(files[0])
        assert reader.read(path).refusal is None, "the whole file is read"
        for _ in range(fuzz_budget(60, 1000)):
            path.write_bytes(damaged(rng, files))
            outcome = reader.read(path)
            if outcome.fault is not None:  # kept, because pytest removes older folders
                raise AssertionError(f"{outcome.fault}\nthe file is {path}")
            outcome.check()


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("STYLERT_FUZZ"), reason="runs under make fuzz")
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs the extra `fuzz` (atheris)")
def test_atheris_finds_no_pickle_that_the_reader_neither_reads_nor_refuses(whole, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for layout in LAYOUTS[:5]:
        (corpus / layout).write_bytes(data := whole(layout))
        assert len(data) < MAX_LENGTH
    words = tmp_path / "words"
    words.write_text("".join(f'"{libfuzzer_text(word)}"\n' for word in (*PIECES, *names_as_opcodes())))
    program = Path(__file__).with_name("atheris_pickles.py")
    options = (
        "-max_total_time=300",
        "-timeout=10",
        "-rss_limit_mb=1024",
        f"-max_len={MAX_LENGTH}",
        f"-dict={words}",
        f"-artifact_prefix={tmp_path}/",
    )
    done = subprocess.run([sys.executable, program, *options, corpus], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert " runs in " in done.stderr, "libFuzzer's last line"
