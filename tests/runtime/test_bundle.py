"""Any change to a bundle's files is detected before it runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.core.errors import BundleError, InputError, StylertError
from stylert.runtime import Generator
from stylert.runtime.bundle import Bundle


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


def test_saving_a_loaded_bundle_changes_no_byte(copy: Path) -> None:
    before = (copy / "bundle.json").read_bytes()
    Bundle.load(copy).save()
    assert (copy / "bundle.json").read_bytes() == before


@pytest.mark.parametrize("name", ["mapping.onnx", "synthesis.fp32.onnx"])
def test_one_changed_bit_of_a_network_is_refused(copy: Path, name: str, rng: np.random.Generator) -> None:
    data = bytearray((copy / name).read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match="sha256"):
        Generator.load(copy)


def test_truncated_and_missing_networks_are_refused(copy: Path) -> None:
    file = copy / "synthesis.int8.onnx"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BundleError, match="bytes"):
        Generator.load(copy, precision="int8")
    file.unlink()
    with pytest.raises(BundleError, match="missing"):
        Generator.load(copy, precision="int8")


@pytest.mark.parametrize("path", ["nowhere", "."])
def test_a_folder_without_manifest_is_refused_with_the_command_that_makes_one(tmp_path: Path, path: str) -> None:
    with pytest.raises(BundleError, match="stylert export"):
        Bundle.load(tmp_path / path)


def test_a_checkpoint_in_place_of_a_bundle_is_refused_with_the_command_that_makes_one(checkpoint: Path) -> None:
    with pytest.raises(BundleError, match=r"is a file, not a bundle; .* stylert export .*\.safetensors --out"):
        Bundle.load(checkpoint)


def test_a_manifest_cannot_name_files_outside_of_the_bundle(copy: Path) -> None:
    data = json.loads((copy / "bundle.json").read_text())
    for name in ("../evil.onnx", "/etc/passwd", "..", "a/b", "a\\b", ""):
        data["precisions"]["fp32"]["file"] = name
        data["files"][name] = data["files"]["mapping.onnx"]
        (copy / "bundle.json").write_text(json.dumps(data))
        with pytest.raises(BundleError, match="plain file name"):
            Bundle.load(copy)
        del data["files"][name]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_a_manifest_with_any_value_replaced_loads_or_is_refused_in_one_line(
    bundle: Bundle, tmp_path: Path, data: st.DataObject
) -> None:
    manifest = json.loads((bundle.path / "bundle.json").read_text())
    target = manifest
    while True:
        key = data.draw(st.sampled_from(sorted(target)))
        if not (isinstance(target[key], dict) and target[key]) or data.draw(st.booleans()):
            break
        target = target[key]
    if data.draw(st.booleans()):
        target[key] = data.draw(json_values)
    else:
        del target[key]
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    try:
        Bundle.load(tmp_path)
    except BundleError as e:
        assert "\n" not in str(e)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(noise=st.binary(max_size=60))
def test_a_manifest_of_arbitrary_bytes_is_refused(tmp_path: Path, noise: bytes) -> None:
    (tmp_path / "bundle.json").write_bytes(noise)
    with pytest.raises(StylertError):
        Bundle.load(tmp_path)


def test_the_error_for_an_absent_precision_names_those_that_exist(bundle: Bundle) -> None:
    with pytest.raises(InputError, match="fp32, int8"):
        bundle.precision("fp16")


def test_a_network_that_may_not_be_read_is_refused_in_one_line(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    bundle = Bundle.load(copy)
    monkeypatch.setattr("stylert.core.files.inputs.open", refuse, raising=False)  # root may read every file
    with pytest.raises(BundleError, match=r"mapping\.onnx cannot be read: Permission denied"):
        bundle.checked_file("mapping.onnx")
