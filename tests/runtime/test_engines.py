"""Engines: built once, reused only where everything matches, noticed when damaged."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stylert.core.errors import BackendError, BundleError, InputError
from stylert.core.image_similarity import psnr
from stylert.core.seeds import z_from_seeds
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.engines import build_engine, engine_file, engine_folder, engine_key, find_engine


@pytest.fixture
def own(bundle: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.load(shutil.copytree(bundle.path, tmp_path / "bundle"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", available_backends())
def test_an_engine_makes_the_images_of_the_file_that_it_was_built_from(own: Bundle, name: str, precision: str) -> None:
    with Generator.load(own, name, precision) as g:
        assert g.engine is None
        expected = g(range(4))
    facts = build_engine(own, name, precision)
    assert not facts["reused"]
    assert build_engine(own, name, precision)["reused"]
    with Generator.load(own, name, precision) as g:
        assert g.engine is not None
        images = g(range(4))
    if (name, precision) == ("openvino", "int8"):  # it chooses other 8-bit kernels when it reads its own blob again
        assert np.mean([psnr(a, b) for a, b in zip(images, expected, strict=True)]) > 30
    else:
        assert np.abs(images.astype(int) - expected.astype(int)).max() <= 1


def test_an_engine_of_other_flags_or_another_source_is_not_reused(own: Bundle) -> None:
    build_engine(own, "onnxruntime", "fp32")
    assert find_engine(own, engine_key(own, "onnxruntime", "fp32")) is not None
    assert find_engine(own, engine_key(own, "onnxruntime", "fp32", BuildOptions(threads=1))) is None
    assert find_engine(own, engine_key(own, "onnxruntime", "int8")) is None


def test_a_hint_for_throughput_is_part_of_an_engine_and_gives_the_same_images_to_several_threads(own: Bundle) -> None:
    for name in ("onnxruntime", "torch", "tensorrt-rtx"):
        with pytest.raises(InputError, match="for openvino"):
            Generator.load(own, name, hint="throughput")
    with pytest.raises(InputError, match="for openvino"):
        build_engine(own, "onnxruntime", "fp32", BuildOptions(hint="throughput"))
    with pytest.raises(InputError, match="name the backend"):
        Generator.load(own, "auto", hint="throughput")
    with pytest.raises(InputError, match="'fast'"):
        Generator.load(own, "openvino", hint="fast")
    with Generator.load(own, "openvino") as g:
        expected = [g([s]) for s in range(8)]
    for built in (False, True):
        if built:
            build_engine(own, "openvino", "fp32", BuildOptions(hint="throughput"))
        with Generator.load(own, "openvino", hint="throughput") as g, ThreadPoolExecutor(4) as pool:
            assert (g.engine is not None) == built
            for images, wanted in zip(pool.map(lambda s: g([s]), range(8)), expected, strict=True):
                assert np.abs(images.astype(int) - wanted.astype(int)).max() <= 1
            streamed = g.stream([g.map(z_from_seeds([s], 24)) for s in range(8)])
            for images, wanted in zip(streamed, expected, strict=True):
                assert np.abs(images.astype(int) - wanted.astype(int)).max() <= 1
    with Generator.load(own, "openvino") as g:
        assert g.engine is None  # that one is of another hint


def test_a_damaged_engine_is_refused_and_the_next_build_mends_it(own: Bundle) -> None:
    build_engine(own, "onnxruntime", "fp32")
    key = engine_key(own, "onnxruntime", "fp32")
    file = engine_file(engine_folder(own, key))
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(BundleError, match="build again"):
        Generator.load(own)
    assert not build_engine(own, "onnxruntime", "fp32")["reused"]
    Generator.load(own).close()


def test_a_damaged_or_missing_weights_file_is_noticed(own: Bundle) -> None:
    build_engine(own, "onnxruntime", "fp32")
    weights = engine_folder(own, engine_key(own, "onnxruntime", "fp32")) / "weights.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"weights\.bin.*build again"):
        Generator.load(own)
    weights.unlink()
    with pytest.raises(BundleError, match="build again"):
        Generator.load(own)
    assert not build_engine(own, "onnxruntime", "fp32")["reused"]
    Generator.load(own).close()


def test_openvinos_network_for_several_images_is_checked_when_it_is_first_used(own: Bundle) -> None:
    build_engine(own, "openvino", "fp32")
    several = engine_folder(own, engine_key(own, "openvino", "fp32")) / "batch4.blob"
    whole = several.read_bytes()
    several.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with Generator.load(own, "openvino") as g:
        assert g.engine is not None
        g([0])
        for _ in range(2):
            with pytest.raises(BundleError, match=r"batch4\.blob.*build again"):
                g(range(4))
        g([0])
    assert not build_engine(own, "openvino", "fp32")["reused"]
    with Generator.load(own, "openvino") as g:
        several.unlink()  # what is open stays as it was
        assert g(range(5)).shape[0] == 5
    with pytest.raises(BundleError, match="build again"):
        Generator.load(own, "openvino")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mapped files")
@pytest.mark.parametrize(("name", "file"), [("onnxruntime", "weights.bin"), ("openvino", "engine.blob")])
def test_an_engines_weights_are_mapped_while_it_is_open_and_let_go_when_closed(own: Bundle, name: str, file: str) -> None:
    build_engine(own, name, "fp32")
    weights = engine_folder(own, engine_key(own, name, "fp32")) / file
    assert str(weights) not in Path("/proc/self/maps").read_text()
    with Generator.load(own, name) as g:
        g([0])
        assert str(weights) in Path("/proc/self/maps").read_text()
    gc.collect()
    assert str(weights) not in Path("/proc/self/maps").read_text()


def test_a_rebuild_does_not_disturb_an_engine_that_is_open(own: Bundle) -> None:
    for name in available_backends():
        build_engine(own, name, "int8")
        with Generator.load(own, name, "int8") as g:
            expected = g(range(3))
            build_engine(own, name, "int8", force=True)
            np.testing.assert_array_equal(g(range(3)), expected)


def test_a_manifest_of_another_key_in_the_same_folder_is_not_believed(own: Bundle) -> None:
    build_engine(own, "onnxruntime", "fp32")
    key = engine_key(own, "onnxruntime", "fp32")
    path = engine_folder(own, key) / "engine.json"
    facts = json.loads(path.read_text())
    facts["key"]["version"] = "0.0.1"
    path.write_text(json.dumps(facts))
    assert find_engine(own, key) is None


def test_a_build_that_fails_leaves_nothing(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, precision: str, engine: Path, *rest: object) -> None:
        engine.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(backend("onnxruntime"), "build", fail)
    with pytest.raises(KeyboardInterrupt):
        build_engine(own, "onnxruntime", "fp32")
    assert list((own.path / "engines").iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("room", [3_000, 60_000], ids=["for nothing", "for some of it"])
def test_a_full_disk_is_one_line_and_leaves_nothing(own: Bundle, name: str, room: int) -> None:
    code = f"""
import resource, sys
from stylert.cli.main import main
import onnxruntime, openvino
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))  # no file may grow past this, as on a full disk
sys.argv = ["stylert", "build", {str(own.path)!r}, "--backend", {name!r}, "--precision", "fp32"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("stylert: cannot write")
    assert list((own.path / "engines").glob("*")) == []
    assert not build_engine(own, name, "fp32")["reused"]


def test_a_precision_that_a_backend_cannot_run_is_refused(own: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = dataclasses.replace(backend("openvino").facts, precisions=("fp32",))
    monkeypatch.setattr(backend("openvino"), "facts", facts)
    with pytest.raises(BackendError, match="fp32"):
        build_engine(own, "openvino", "int8")
