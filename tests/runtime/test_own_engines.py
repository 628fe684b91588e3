"""An engine that this user built is not parsed again. Every other engine is searched for unlisted files, whatever its record says."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from stylert.core.errors import BundleError, InputError
from stylert.export.pipeline import export_bundle
from stylert.runtime import network_files, own_engines
from stylert.runtime.bundle import Bundle
from stylert.runtime.bundle_files import file_entries
from stylert.runtime.engines import build_engine, engine_folder, engine_key
from stylert.runtime.generator import Generator
from tests.faults import rights_of_a_user


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stylert" / "engines"


@pytest.fixture
def built(cache: Path, bundle: Bundle, tmp_path: Path) -> Bundle:
    copy = Bundle.load(shutil.copytree(bundle.path, tmp_path / "b"))
    build_engine(copy, "onnxruntime", "int8")
    return copy


def unknown_folder() -> Path:
    raise InputError("the folder for caches is not known")


def parsed_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are parsed from now on."""
    names: list[str] = []
    parsed = network_files.parsed
    monkeypatch.setattr(network_files, "parsed", lambda file: names.append(file.name) or parsed(file))
    return names


def test_an_engine_of_this_user_is_not_parsed(built: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    names = parsed_files(monkeypatch)
    with Generator.load(built, precision="int8") as g:
        assert g.engine is not None
        g([1])
    assert names == []


@pytest.mark.parametrize("cache_is", ["empty", "unknown"])
def test_an_engine_of_someone_else_is_parsed_and_runs(
    built: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch, cache_is: str
) -> None:
    with Generator.load(built, precision="int8") as g:
        images = g([1])
    shutil.rmtree(cache)
    if cache_is == "unknown":
        monkeypatch.setattr(own_engines, "cache_folder", unknown_folder)
    names = parsed_files(monkeypatch)
    with Generator.load(built, precision="int8") as g:
        np.testing.assert_array_equal(g([1]), images)
    assert names == ["engine.onnx"]
    assert not cache.exists()  # loading writes nothing


def test_a_build_works_where_the_cache_cannot_be_written(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    copy = Bundle.load(shutil.copytree(bundle.path, tmp_path / "b"))
    build_engine(copy, "onnxruntime", "int8")
    with Generator.load(copy, precision="int8") as g:
        assert g.engine is not None


def test_a_cache_that_may_not_be_searched_is_as_if_empty(built: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is that of another user after `sudo -u`."""
    names = parsed_files(monkeypatch)
    cache.parent.chmod(0)
    try:
        with rights_of_a_user(), Generator.load(built, precision="int8") as g:
            g([1])
    finally:
        cache.parent.chmod(0o700)
    assert names == ["engine.onnx"]


def test_an_engine_that_names_an_unlisted_file_is_refused_although_its_record_has_its_sha256(built: Bundle) -> None:
    folder = engine_folder(built, engine_key(built, "onnxruntime", "int8"))
    model = onnx.load(folder / "engine.onnx", load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = "hidden.bin"
    shutil.copy(folder / "weights.bin", folder / "hidden.bin")
    former, changed = hashlib.sha256((folder / "engine.onnx").read_bytes()), model.SerializeToString()
    (folder / "engine.onnx").write_bytes(changed)
    record = (folder / "engine.json").read_text().replace(former.hexdigest(), hashlib.sha256(changed).hexdigest())
    (folder / "engine.json").write_text(record)
    with pytest.raises(BundleError, match=r"hidden\.bin"):
        Generator.load(built, precision="int8")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_runtime_opens_no_network_with_a_wrong_operator(
    make_checkpoint: Callable[..., Path], tmp_path: Path, precision: str
) -> None:
    """The operators' functions would run it, and return other images."""
    bundle = export_bundle(make_checkpoint(), tmp_path / "b", [precision])
    name = bundle.network(precision, "onnxruntime")
    model = onnx.load(bundle.path / name)
    node = next(node for node in model.graph.node if node.op_type == "ModulatedConv2d")
    next(attribute for attribute in node.attribute if attribute.name == "up").i = 3
    (bundle.path / name).write_bytes(model.SerializeToString())
    replace(bundle, files=bundle.files | file_entries(bundle.path, [name])).save()
    changed = Bundle.load(bundle.path)
    for use in (Generator.load, build_engine):
        with pytest.raises(BundleError, match=r"node .*up"):
            use(changed, "onnxruntime", precision)
