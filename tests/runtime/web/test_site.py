"""The folder of a page: what it holds, what it replaces, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from stylert.core.errors import BackendError, BundleError, InputError, OutputError, StylertError
from stylert.export.pipeline import export_bundle
from stylert.runtime.bundle import Bundle
from stylert.runtime.media.recipes import bundle_hash
from stylert.runtime.serving.named_bundle import NamedBundle
from stylert.runtime.steering.directions_file import read_directions
from stylert.runtime.web import site
from stylert.runtime.web.site import HEADERS, write_site
from tests.runtime.serving.test_edits import directions_of

pytestmark = pytest.mark.usefixtures("no_runtime")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_page_has_every_file_that_its_scripts_and_its_list_of_models_name(bundle: Bundle, tmp_path: Path) -> None:
    write_site([NamedBundle("small", bundle.path)], tmp_path / "site")
    files = contents(tmp_path / "site")
    for name, content in files.items():
        text = content.decode() if name.endswith((".js", ".html")) and not name.startswith("ort/") else ""
        for imported in re.findall(r'from "\./([\w.]+)"|new URL\("([\w.]+)", import', text):
            assert f"page/{max(imported)}" in files, (name, imported)
        for linked in re.findall(r'(?:src|href)="([^"]+)"', text):
            assert linked in files, (name, linked)
    models = json.loads(files["models.json"])["models"]
    assert [(model["name"], model["precision"]) for model in models] == [("small", "fp32"), ("small.int8", "int8")]
    for model in models:
        assert model["sha256"] == bundle_hash(bundle)
        for file in model["files"].values():
            assert len(files[file["path"]]) == file["bytes"]
            onnx.checker.check_model(onnx.load_from_string(files[file["path"]]))


def test_the_service_worker_knows_every_file_but_itself_and_changes_with_each_file(bundle: Bundle, tmp_path: Path) -> None:
    versions = set()
    for precisions in (("fp32",), ("int8",)):
        write_site([NamedBundle("small", bundle.path, precisions)], tmp_path / "site")
        text = (tmp_path / "site" / "site_version.js").read_text()
        constants = {name: json.loads(value) for name, value in re.findall(r"^const (\w+) = (.*);$", text, re.M)}
        own = {"service_worker.js", "site_version.js", "_headers", site.MARK}
        assert set(constants["FILES"]) == {"./", *contents(tmp_path / "site")} - own
        assert set(constants["FIRST_FILES"]) <= set(constants["FILES"])
        assert constants["HEADERS"] == HEADERS
        versions.add(constants["VERSION"])
    assert len(versions) == 2


def test_the_headers_for_hosts_are_those_of_the_service_worker(bundle: Bundle, tmp_path: Path) -> None:
    write_site([NamedBundle("small", bundle.path)], tmp_path / "site")
    first, *lines = (tmp_path / "site" / "_headers").read_text().splitlines()
    assert first == "/*"
    assert dict(line.strip().split(": ", 1) for line in lines) == HEADERS


def test_the_same_bundle_gives_the_same_bytes_and_a_page_replaces_one_of_before(bundle: Bundle, tmp_path: Path) -> None:
    source = [NamedBundle("small", bundle.path)]
    write_site(source, tmp_path / "a")
    write_site([NamedBundle("other", bundle.path, ("int8",))], tmp_path / "b")
    write_site(source, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_folder_with_other_files_is_left_as_it_is(bundle: Bundle, tmp_path: Path) -> None:
    write_site([NamedBundle("small", bundle.path)], tmp_path / "site")
    (tmp_path / "site" / "CNAME").write_text("cats.example")
    before = contents(tmp_path / "site")
    with pytest.raises(OutputError, match="it also holds CNAME"):
        write_site([NamedBundle("small", bundle.path)], tmp_path / "site")
    assert contents(tmp_path / "site") == before


def test_the_stated_size_is_that_of_the_files_which_one_model_needs(bundle: Bundle, tmp_path: Path) -> None:
    downloads = write_site([NamedBundle("small", bundle.path)], tmp_path / "site")
    assert [(d.model, d.provider) for d in downloads] == [("small", "wasm"), ("small", "webgpu"), ("small.int8", "wasm")]
    files = contents(tmp_path / "site")
    page = sum(
        len(content) for name, content in files.items() if name.startswith("page/") or name in ("index.html", "models.json")
    )
    wasm = sum(
        len(files[f"ort/{name}"]) for name in ("ort.wasm.js", "ort-wasm-simd-threaded.js", "ort-wasm-simd-threaded.wasm")
    )
    networks = len(files["models/small/mapping.onnx"]) + len(files["models/small/synthesis.int8.onnx"])
    assert downloads[2].bytes == page + wasm + networks
    assert all(0 < d.compressed < d.bytes for d in downloads)


def test_without_webgpu_its_files_are_left_out(bundle: Bundle, tmp_path: Path) -> None:
    write_site([NamedBundle("small", bundle.path)], tmp_path / "site", with_webgpu=False)
    assert not [name for name in contents(tmp_path / "site") if "webgpu" in name or "asyncify" in name]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"noise": "input"}, InputError, "noise as inputs"),
        ({"output": "float"}, BackendError, "float images"),
        ({"precisions": ("fp16",)}, InputError, "a browser runs fp32, int8"),
    ],
    ids=["noise", "float", "precision"],
)
def test_a_bundle_that_a_page_cannot_run_is_refused(
    checkpoint: Path, tmp_path: Path, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    options = {"precisions": ("fp32",), "backends": ("onnxruntime",), "verify_seeds": 0, **changes}
    export_bundle(checkpoint, tmp_path / "bundle", **options)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        write_site([NamedBundle("small", tmp_path / "bundle")], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_precision_that_is_not_there_and_two_bundles_of_one_name_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no 'bf16' network"):
        write_site([NamedBundle("small", bundle.path, ("bf16",))], tmp_path / "site")
    with pytest.raises(InputError, match="two bundles are named small"):
        write_site([NamedBundle("small", bundle.path)] * 2, tmp_path / "site")


def test_a_damaged_network_gets_into_no_page(bundle: Bundle, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle.path, tmp_path / "bundle")
    network = copy / "synthesis.fp32.onnx"
    network.write_bytes(network.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError, match="sha256"):
        write_site([NamedBundle("small", copy)], tmp_path / "site")


def test_directions_are_files_beside_the_networks(bundle: Bundle, tmp_path: Path) -> None:
    file = directions_of(bundle, tmp_path / "d.safetensors")
    write_site([NamedBundle("small", bundle.path)], tmp_path / "site", directions=[file])
    files = contents(tmp_path / "site")
    directions = read_directions(file)
    for model in json.loads(files["models.json"])["models"]:
        assert model["directions"] == 2  # that of styles needs an input of the network
        document = json.loads(files[model["files"]["directions"]["path"]])
        assert document["sha256"] == directions.sha256
        vectors = np.frombuffer(files[model["files"]["vectors"]["path"]], "<f4").reshape(2, -1)
        for fact, vector in zip(document["directions"], vectors, strict=True):
            np.testing.assert_array_equal(vector, directions[fact["name"]].vector)
    write_site([NamedBundle("small", bundle.path)], tmp_path / "plain")
    plain = contents(tmp_path / "plain")
    assert {model["directions"] for model in json.loads(plain["models.json"])["models"]} == {0}
    assert not [name for name in plain if "directions" in name and not name.startswith("page/")]


def test_directions_of_another_network_are_refused_and_nothing_is_written(
    bundle: Bundle, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    other = export_bundle(make_checkpoint(another=True), tmp_path / "other", ["fp32"], verify_seeds=0)
    foreign = directions_of(other, tmp_path / "foreign.safetensors")
    own = directions_of(bundle, tmp_path / "own.safetensors")
    for files, message in (([foreign], "these directions belong to the network"), ([own, own], "directions join")):
        with pytest.raises(StylertError, match=message):
            write_site([NamedBundle("small", bundle.path)], tmp_path / "site", directions=files)
        assert not (tmp_path / "site").exists()


def test_labels_are_told_to_the_page(make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    options = {"precisions": ("fp32",), "backends": ("onnxruntime",), "verify_seeds": 0}
    export_bundle(make_checkpoint(resolution=8, c_dim=3), tmp_path / "bundle", **options)  # type: ignore[arg-type]
    write_site([NamedBundle("small", tmp_path / "bundle")], tmp_path / "site")
    assert json.loads((tmp_path / "site" / "models.json").read_text())["models"][0]["classes"] == 3
