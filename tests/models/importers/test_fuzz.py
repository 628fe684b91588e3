"""Damaged files of every layout are read or refused in one line, in little time and memory."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stylert.models.checkpoint import write_generator
from tests.draws import fresh, fuzz_budget
from tests.models.importers.contained import contained_reader
from tests.models.importers.mutations import damaged

LAYOUTS = ["official", "official-single", "rosinality", "rosinality-legacy", "tensorflow", "stylert"]


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
        (corpus / layout).write_bytes(whole(layout))
    program = Path(__file__).with_name("atheris_pickles.py")
    options = ("-max_total_time=120", "-timeout=10", "-rss_limit_mb=1024", "-max_len=65536", f"-artifact_prefix={tmp_path}/")
    done = subprocess.run([sys.executable, program, *options, corpus], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
