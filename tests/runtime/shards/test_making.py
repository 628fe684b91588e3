"""Shards hold the generator's images, each once, also after a kill in the middle of the work."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BackendError, BundleError, InputError, OutputError, SigningError
from stylert.core.provenance.credentials import SWITCH, write_test_credential
from stylert.core.provenance.signing import active_signer_sha256
from stylert.export.pipeline import export_bundle
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from stylert.runtime.media.recipes import Recipe, bundle_hash
from stylert.runtime.shards import files
from stylert.runtime.shards.making import loaded, make_shards
from stylert.runtime.shards.work import ShardWork
from tests.runtime.shards.reading import images_of


def work_of(bundle: Bundle, **changes: object) -> ShardWork:
    facts = {"backend": "onnxruntime", "precision": "fp32", "psi": 0.7, "seeds": "3-9,40-44", "shards": 5, "batch": 2}
    return ShardWork(bundle=bundle_hash(bundle), **{**facts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(("format_name", "picture"), [("tar", "png"), ("parquet", "png"), ("tar", "webp"), ("parquet", "jpg")])
def test_shards_hold_the_images_of_the_generator(bundle: Bundle, tmp_path: Path, format_name: str, picture: str) -> None:
    work = work_of(bundle, format=format_name, picture=picture)
    reports: list[int] = []
    assert make_shards(work, bundle, tmp_path / "out", 1, lambda _, done, total: reports.append(done)) == 5
    assert reports[-1] == work.images == 12
    found = images_of(tmp_path / "out")
    seeds = [*range(3, 10), *range(40, 45)]
    assert sorted(found) == seeds
    with Generator.load(bundle, threads=1) as g:
        expected = g(seeds, 0.7)
    for seed, image in zip(seeds, expected, strict=True):
        made, recipe = found[seed]
        difference = np.abs(made.astype(int) - image)
        assert difference.max() <= 1 if picture == "png" else difference.mean() < 20
        parsed = Recipe.from_json(json.dumps(recipe))
        assert (parsed.seeds, parsed.psi, parsed.bundle) == ((seed,), (0.7,), work.bundle)
        assert seed in (parsed.together or ())


def test_a_rerun_makes_only_what_is_missing(bundle: Bundle, tmp_path: Path) -> None:
    work, out = work_of(bundle), tmp_path / "out"
    make_shards(work, bundle, out, 1)
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir()}
    assert make_shards(work, bundle, out, 1) == 0
    shard = work.all_shards()[2].name
    (out / shard).unlink()
    assert make_shards(work, bundle, out, 1) == 1
    after = {path.name: (path.stat().st_ino, path.read_bytes()) for path in out.iterdir()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name][0] != before[name][0]} <= {shard}
    assert after[shard][1] == before[shard][1]  # the same work gives the same bytes


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_calls_of_a_small_network_run_at_the_same_time_and_change_no_byte(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    work = work_of(bundle, backend=backend, seeds="0-15", shards=2)
    make_shards(work, bundle, tmp_path / "one", 1)
    together = threading.Barrier(2)
    alone = Generator.synthesize

    def meet(self: Generator, ws: np.ndarray, *others: Any) -> np.ndarray:
        together.wait(120)
        return alone(self, ws, *others)

    monkeypatch.setattr(Generator, "synthesize", meet)
    make_shards(work, bundle, tmp_path / "two", 2)
    one, two = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_a_failed_batch_ends_the_work_and_leaves_no_shard(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Generator, ws: np.ndarray, *others: Any) -> np.ndarray:
        raise BackendError("not enough memory for 2 images at once")

    monkeypatch.setattr(Generator, "synthesize", fail)
    with pytest.raises(BackendError, match="memory"):
        make_shards(work_of(bundle), bundle, tmp_path / "out", 2)
    assert not list((tmp_path / "out").glob("seeds-*"))


def test_labels_and_mistakes(
    make_checkpoint: Callable[..., Path], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = export_bundle(make_checkpoint(c_dim=3), tmp_path / "bundle", ["fp32"], verify_seeds=0)
    make_shards(work_of(labelled, label=2), labelled, tmp_path / "out", 1)
    with Generator.load(labelled, threads=1) as g:
        assert np.abs(images_of(tmp_path / "out")[5][0].astype(int) - g([5], 0.7, labels=[2])[0]).max() <= 1
    with pytest.raises(InputError):
        make_shards(work_of(labelled), labelled, tmp_path / "none", 1)
    with pytest.raises(BundleError, match="replaced"):
        make_shards(work_of(bundle), labelled, tmp_path / "none", 1)
    with pytest.raises(OutputError, match="psi"):
        make_shards(work_of(labelled, label=2, psi=1.0), labelled, tmp_path / "out", 1)
    monkeypatch.setattr(files, "find_spec", lambda _: None)
    with pytest.raises(BackendError, match=r"stylert\[datasets\]"):
        make_shards(work_of(bundle, format="parquet"), bundle, tmp_path / "none", 1)
    assert not (tmp_path / "none").exists()


def command(bundle: Bundle, out: Path, *more: object) -> list[str]:
    words = ["-P", "-m", "stylert.cli.main", "generate", bundle.path, "--seeds", "0-799", "--out", out, "--shards", 40]
    return [sys.executable, *map(str, (*words, "--threads", 1, "--psi", 0.5, *more))]


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["tar", "parquet"])
def test_a_kill_loses_and_doubles_no_seed(bundle: Bundle, tmp_path: Path, format_name: str) -> None:
    out = tmp_path / "out"
    words = command(bundle, out, "--shard-format", format_name, "--batch", 1)  # slow enough to be killed in the middle
    kills = 0
    for wanted in (2, 12, 25):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while len(list(out.glob("seeds-*"))) < wanted and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
    assert kills, "the work was done before the first kill"
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "800 images" in done.stdout) == (0, True), done.stderr
    assert sorted(images_of(out)) == list(range(800))
    assert len(os.listdir(out)) == 41  # nothing unfinished stays
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert "wrote 0 of 40 shards" in done.stdout
    done = subprocess.run([*words, "--precision", "int8"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
    assert "precision" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shards", "2", "--grid"],
        ["--ray", "local"],
        ["--picture", "webp"],
        ["--shards", "9"],
        ["--shards", "2", "--seeds", "0,0"],
        ["--shards", "2", "--shard-format", "zip"],
    ],
    ids=" ".join,
)
def test_mistakes_are_one_line(
    bundle: Bundle, tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from stylert.cli import main as cli

    seeds = [] if "--seeds" in arguments else ["--seeds", "0-3"]
    words = ["stylert", "generate", str(bundle.path), "--out", str(tmp_path / "out"), *seeds, *arguments]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_has_one_signer(bundle: Bundle, signing_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(name: str = "out") -> int:
        work = work_of(bundle, seeds="0-3", shards=2, signer=active_signer_sha256())
        return make_shards(work, bundle, tmp_path / name, 1)

    assert make() == 2
    (tmp_path / "out" / "seeds-0000000002-0000000003.tar").unlink()
    write_test_credential(tmp_path / "other")
    for other in (str(tmp_path / "other"), "off"):
        monkeypatch.setenv(SWITCH, other)
        with pytest.raises(OutputError, match="have signer"):
            make()
    monkeypatch.delenv(SWITCH)
    assert make() == 1
    monkeypatch.setenv(SWITCH, "off")
    assert make("unsigned") == 2
    monkeypatch.delenv(SWITCH)
    with pytest.raises(OutputError, match="have signer None"):
        make("unsigned")


def test_a_process_that_would_sign_otherwise_than_the_work_makes_no_shard(
    bundle: Bundle, signing_folder: Path, tmp_path: Path
) -> None:
    """Such as that of another node of a cluster."""
    for signer in (None, "0" * 64):
        with pytest.raises(SigningError, match=SWITCH):
            make_shards(work_of(bundle, signer=signer), bundle, tmp_path / "out", 1)
        with pytest.raises(SigningError, match=SWITCH):
            loaded(work_of(bundle, signer=signer), bundle, 1)
    assert not (tmp_path / "out").exists()


def test_two_processes_do_not_write_into_one_folder(bundle: Bundle, tmp_path: Path) -> None:
    from stylert.core.files.partials import lock

    out = tmp_path / "out"
    out.mkdir()
    descriptor = os.open(out, os.O_RDONLY)
    assert lock(descriptor)
    with pytest.raises(OutputError, match="another process"):
        make_shards(work_of(bundle), bundle, out, 1)
    os.close(descriptor)
    assert make_shards(dataclasses.replace(work_of(bundle), shards=1), bundle, out, 1) == 1
