"""An engine is built once, reused only if its key matches in full, and refused if it is damaged."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.cli.pipeline.build import build_all, show_engines
from stylert.core.errors import BackendError, BundleError, InputError, OutputError
from stylert.core.files import atomic
from stylert.core.images.similarity import psnr
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.engines import build_engine, engine_file, engine_folder, engine_key, find_engine, read_record
from tests.faults import started


@pytest.fixture
def bundle_copy(bundle: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.load(shutil.copytree(bundle.path, tmp_path / "bundle"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("name", available_backends())
def test_an_engine_makes_the_images_of_the_file_that_it_was_built_from(bundle_copy: Bundle, name: str, precision: str) -> None:
    with Generator.load(bundle_copy, name, precision) as g:
        assert g.engine is None
        expected = g(range(4))
    facts = build_engine(bundle_copy, name, precision)
    assert not facts["reused"]
    assert build_engine(bundle_copy, name, precision)["reused"]
    with Generator.load(bundle_copy, name, precision) as g:
        assert g.engine is not None
        images = g(range(4))
    if (name, precision) == (
        "openvino",
        "int8",
    ):  # OpenVINO chooses other 8-bit kernels when it imports its bundle_copy network
        assert np.mean([psnr(a, b) for a, b in zip(images, expected, strict=True)]) > 30
    else:
        assert np.abs(images.astype(int) - expected.astype(int)).max() <= 1


def test_an_engine_of_other_flags_or_of_another_network_is_not_reused(bundle_copy: Bundle) -> None:
    build_engine(bundle_copy, "onnxruntime", "fp32")
    assert find_engine(bundle_copy, engine_key(bundle_copy, "onnxruntime", "fp32")) is not None
    assert find_engine(bundle_copy, engine_key(bundle_copy, "onnxruntime", "fp32", BuildOptions(threads=1))) is None
    assert find_engine(bundle_copy, engine_key(bundle_copy, "onnxruntime", "int8")) is None


def test_the_throughput_hint_is_part_of_an_engines_key_and_gives_the_same_images_to_several_threads(
    bundle_copy: Bundle,
) -> None:
    for name in ("onnxruntime", "torch", "tensorrt-rtx"):
        with pytest.raises(InputError, match="for openvino"):
            Generator.load(bundle_copy, name, hint="throughput")
    with pytest.raises(InputError, match="for openvino"):
        build_engine(bundle_copy, "onnxruntime", "fp32", BuildOptions(hint="throughput"))
    with pytest.raises(InputError, match="name the backend"):
        Generator.load(bundle_copy, "auto", hint="throughput")
    with pytest.raises(InputError, match="'fast'"):
        Generator.load(bundle_copy, "openvino", hint="fast")
    with Generator.load(bundle_copy, "openvino") as g:
        expected = [g([s]) for s in range(8)]
    for built in (False, True):
        if built:
            build_engine(bundle_copy, "openvino", "fp32", BuildOptions(hint="throughput"))
        with Generator.load(bundle_copy, "openvino", hint="throughput") as g, ThreadPoolExecutor(4) as pool:
            assert (g.engine is not None) == built
            for images, wanted in zip(pool.map(lambda s: g([s]), range(8)), expected, strict=True):
                assert np.abs(images.astype(int) - wanted.astype(int)).max() <= 1
            streamed = g.stream([g.map(z_from_seeds([s], 24)) for s in range(8)])
            for images, wanted in zip(streamed, expected, strict=True):
                assert np.abs(images.astype(int) - wanted.astype(int)).max() <= 1
    with Generator.load(bundle_copy, "openvino") as g:
        assert g.engine is None  # the bundle has only an engine with another hint


def test_a_damaged_engine_is_refused_and_the_next_build_replaces_it(bundle_copy: Bundle) -> None:
    build_engine(bundle_copy, "onnxruntime", "fp32")
    key = engine_key(bundle_copy, "onnxruntime", "fp32")
    file = engine_file(engine_folder(bundle_copy, key), "onnxruntime")
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(BundleError, match="build it again"):
        Generator.load(bundle_copy)
    assert not build_engine(bundle_copy, "onnxruntime", "fp32")["reused"]
    Generator.load(bundle_copy).close()


@pytest.mark.parametrize("target", ["victim", "absent"])
@pytest.mark.parametrize("place", ["engines", "engine"])
def test_no_link_in_a_bundle_leads_a_build_out_of_it(place: str, target: str, bundle_copy: Bundle, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / ".x.stylert.partial").write_text("mine")
    link = engine_folder(bundle_copy, engine_key(bundle_copy, "onnxruntime", "fp32"))
    link = link if place == "engine" else link.parent
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / target)
    with pytest.raises(OutputError, match=f"{link} is a link"):
        build_engine(bundle_copy, "onnxruntime", "fp32")
    assert [file.name for file in victim.iterdir()] == [".x.stylert.partial"]
    assert not (tmp_path / "absent").exists()


def test_a_damaged_or_missing_weights_file_is_refused(bundle_copy: Bundle) -> None:
    build_engine(bundle_copy, "onnxruntime", "fp32")
    weights = engine_folder(bundle_copy, engine_key(bundle_copy, "onnxruntime", "fp32")) / "weights.bin"
    intact = weights.read_bytes()
    weights.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"weights\.bin.*build it again"):
        Generator.load(bundle_copy)
    weights.unlink()
    with pytest.raises(BundleError, match="build it again"):
        Generator.load(bundle_copy)
    assert not build_engine(bundle_copy, "onnxruntime", "fp32")["reused"]
    Generator.load(bundle_copy).close()


def test_openvinos_network_for_four_images_is_verified_when_it_is_first_used(bundle_copy: Bundle) -> None:
    build_engine(bundle_copy, "openvino", "fp32")
    blob = engine_folder(bundle_copy, engine_key(bundle_copy, "openvino", "fp32")) / "batch4.blob"
    intact = blob.read_bytes()
    blob.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with Generator.load(bundle_copy, "openvino") as g:
        assert g.engine is not None
        g([0])
        for _ in range(2):
            with pytest.raises(BundleError, match=r"batch4\.blob.*build it again"):
                g(range(4))
        g([0])
    assert not build_engine(bundle_copy, "openvino", "fp32")["reused"]
    with Generator.load(bundle_copy, "openvino") as g:
        blob.unlink()  # the open session keeps the file
        assert g(range(5)).shape[0] == 5
    with pytest.raises(BundleError, match="build it again"):
        Generator.load(bundle_copy, "openvino")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's list of mapped files")
@pytest.mark.parametrize(("name", "file"), [("onnxruntime", "weights.bin"), ("openvino", "engine.blob")])
def test_an_engines_weights_are_mapped_while_it_is_open_and_unmapped_when_it_is_closed(
    bundle_copy: Bundle, name: str, file: str
) -> None:
    build_engine(bundle_copy, name, "fp32")
    weights = engine_folder(bundle_copy, engine_key(bundle_copy, name, "fp32")) / file
    assert str(weights) not in Path("/proc/self/maps").read_text()
    with Generator.load(bundle_copy, name) as g:
        g([0])
        assert str(weights) in Path("/proc/self/maps").read_text()
    gc.collect()
    assert str(weights) not in Path("/proc/self/maps").read_text()


def test_a_new_build_does_not_change_an_engine_that_is_open(bundle_copy: Bundle) -> None:
    for name in available_backends():
        build_engine(bundle_copy, name, "int8")
        with Generator.load(bundle_copy, name, "int8") as g:
            expected = g(range(3))
            build_engine(bundle_copy, name, "int8", force=True)
            np.testing.assert_array_equal(g(range(3)), expected)


def test_an_engine_whose_manifest_has_another_key_than_its_folder_is_not_used(bundle_copy: Bundle) -> None:
    build_engine(bundle_copy, "onnxruntime", "fp32")
    key = engine_key(bundle_copy, "onnxruntime", "fp32")
    path = engine_folder(bundle_copy, key) / "engine.json"
    facts = json.loads(path.read_text())
    facts["key"]["version"] = "0.0.1"
    path.write_text(json.dumps(facts))
    assert find_engine(bundle_copy, key) is None


@pytest.mark.parametrize(
    "change",
    [
        {"bytes": None},
        {"bytes": "many"},
        {"build_seconds": [1]},
        {"kernels": "x"},
        {"moved_bytes": None},
        {"layers": 3},
        {"layers": [{"name": "k"}]},
        {"layers": [{"range": "x"}]},
    ],
    ids=str,
)
def test_an_engine_with_wrong_facts_is_built_again_and_shown(bundle_copy: Bundle, change: dict[str, object]) -> None:
    build_engine(bundle_copy, "onnxruntime", "fp32")
    record = engine_folder(bundle_copy, engine_key(bundle_copy, "onnxruntime", "fp32")) / "engine.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | change))
    with pytest.raises(BundleError, match=r"engine\.json is not valid.*build it again"):
        read_record(record.parent)
    facts, refused = build_all(bundle_copy, ["onnxruntime"], ["fp32"])
    assert [fact["reused"] for fact in facts] == [False]
    assert refused == []
    show_engines(facts)


def test_a_build_that_fails_leaves_no_files(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, precision: str, engine: Path, *rest: object) -> None:
        engine.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(backend("onnxruntime"), "build", fail)
    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle_copy, "onnxruntime", "fp32")
    assert list((bundle_copy.path / "engines").iterdir()) == []


def test_a_build_during_which_the_bundle_is_exported_anew_is_refused(
    bundle_copy: Bundle, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = type(backend("onnxruntime")).build

    def build_during_export(*arguments: Any) -> dict[str, Any]:
        export_bundle(checkpoint, bundle_copy.path, ["fp32"])
        return build(backend("onnxruntime"), *arguments)

    monkeypatch.setattr(backend("onnxruntime"), "build", build_during_export)
    with pytest.raises(OutputError, match="replaced in the meantime"):
        build_engine(bundle_copy, "onnxruntime", "fp32")
    assert not (bundle_copy.path / "engines").exists()


def test_an_export_waits_until_an_engine_is_in_its_place(
    bundle_copy: Bundle, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_place, exports = atomic._put_in_place, []

    def put_during_export(temporary: Path, target: Path) -> None:
        if target != bundle_copy.path:
            exports.append(started(lambda: export_bundle(checkpoint, bundle_copy.path, ["fp32"])))
        put_in_place(temporary, target)

    monkeypatch.setattr(atomic, "_put_in_place", put_during_export)
    build_engine(bundle_copy, "onnxruntime", "fp32")
    exports[0].result()
    assert not (bundle_copy.path / "engines").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("room", [3_000, 60_000], ids=["for nothing", "for some of it"])
def test_a_full_disk_is_one_line_and_leaves_no_files(bundle_copy: Bundle, name: str, room: int) -> None:
    code = f"""
import resource, sys
from stylert.cli.main import main
import onnxruntime, openvino
resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))  # no file may grow past this, as on a full disk
sys.argv = ["stylert", "build", {str(bundle_copy.path)!r}, "--backend", {name!r}, "--precision", "fp32"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("stylert: cannot write")
    assert list((bundle_copy.path / "engines").glob("*")) == []
    assert not build_engine(bundle_copy, name, "fp32")["reused"]


def test_a_precision_that_a_backend_cannot_run_is_refused(bundle_copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = dataclasses.replace(backend("openvino").facts, precisions=("fp32",))
    monkeypatch.setattr(backend("openvino"), "facts", facts)
    with pytest.raises(BackendError, match="fp32"):
        build_engine(bundle_copy, "openvino", "int8")
