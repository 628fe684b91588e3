"""Bundles and engines of strangers load, or are refused in one line. Nothing outside of what the manifest lists is read."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from stylert.core.errors import StylertError
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import backend
from stylert.runtime.engines import build_engine, engine_folder, engine_key, read_record
from stylert.runtime.lowering import lower
from stylert.runtime.network_files import check_network_file
from tests.draws import fuzz_budget

KINDS_OF_NETWORKS = ("onnxruntime", "openvino", "torch")
CPU = [name for name in KINDS_OF_NETWORKS if backend(name).available()]


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


def rewrite(file: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def list_files(bundle: Path) -> None:
    """Write the sha256 and size of the bundle's files into its manifest, as a stranger would."""

    def change(manifest: dict[str, Any]) -> None:
        for name in manifest["files"]:
            content = (bundle / name).read_bytes()
            manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    rewrite(bundle / "bundle.json", change)


def refusal(use: Callable[[], object]) -> str:
    """The one line of the error that `use` raises."""
    with pytest.raises(StylertError) as e:
        use()
    line = str(e.value)
    assert line.isprintable()
    return line


WRONG_MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no whole number": lambda m: m["files"]["mapping.onnx"].update(bytes=float("inf")),
    "a number beyond floats": lambda m: m["precisions"]["fp32"].update(min_psnr_db=10**400),
    "no precision": lambda m: m["precisions"].clear(),
    "negative latents": lambda m: m["io"].update(num_ws=-1),
    "one latent too many": lambda m: m["io"].update(num_ws=7),
    "latents beyond 64 bits": lambda m: m["io"].update(num_ws=2**63),
    "negative z": lambda m: m["model"].update(z_dim=-1),
    "another z": lambda m: m["model"].update(z_dim=17),
    "z beyond 64 bits": lambda m: m["model"].update(z_dim=10**30),
    "another w": lambda m: m["model"].update(w_dim=17),
    "labels of an unconditional network": lambda m: m["model"].update(c_dim=3),
    "another output": lambda m: m["io"].update(output="float"),
    "another size": lambda m: (m["model"].update(resolution=32), m["io"].update(num_ws=8)),
    "another number of channels": lambda m: m["model"].update(img_channels=1),
    "noise of a network without": lambda m: m["io"].update(noise="input", noise_inputs={"noise_4_conv1": 4}),
    "styles of a network without": lambda m: m["io"].update(style_channels=4),
    "a negative number of styles": lambda m: m["io"].update(style_channels=-1),
    "noise inputs without noise": lambda m: m["io"].update(noise_inputs={"noise_4_conv1": 4}),
    "a suffix by which ONNX Runtime takes another reader": lambda m: (
        m["precisions"]["fp32"].update(file="synthesis.ort"),
        m["files"].update({"synthesis.ort": m["files"]["mapping.onnx"]}),
    ),
    "a precision named by escape sequences": lambda m: m["precisions"].update({"\x1b[31m": m["precisions"]["fp32"]}),
    "a file named by escape sequences": lambda m: m["files"].update({"\x1b[31m": m["files"]["mapping.onnx"]}),
    "a file of holes that takes hours to hash": lambda m: m["files"]["mapping.onnx"].update(bytes=2**31),
    "no sha256": lambda m: m["files"]["mapping.onnx"].update(sha256="0"),
    "plans as a list": lambda m: m["precisions"]["fp32"].update(plans=[]),
}


@pytest.mark.parametrize("wrong", WRONG_MANIFESTS)
def test_a_manifest_that_does_not_fit_the_format_or_its_networks_is_refused_when_loaded(copy: Path, wrong: str) -> None:
    rewrite(copy / "bundle.json", WRONG_MANIFESTS[wrong])
    assert "bundle.json" in refusal(lambda: Generator.load(copy))


@pytest.mark.parametrize("text", ["[" * 200_000, '{"schema": 1, "model": ' + '{"a":' * 100_000, "1" * 5_000_000, "nul", "\0"])
def test_a_manifest_of_any_depth_and_length_is_refused(copy: Path, text: str) -> None:
    (copy / "bundle.json").write_text(text)
    assert "bundle.json" in refusal(lambda: Bundle.load(copy))


def test_a_manifest_that_is_a_pipe_is_refused_without_waiting(copy: Path) -> None:
    (copy / "bundle.json").unlink()
    os.mkfifo(copy / "bundle.json")
    assert "not a regular file" in refusal(lambda: Bundle.load(copy))


def test_a_link_is_read_like_the_file_that_it_names_and_a_link_to_another_content_is_refused(
    copy: Path, tmp_path: Path
) -> None:
    """Caches of downloads keep a bundle as links."""
    network = copy / "synthesis.fp32.onnx"
    network.rename(tmp_path / "blob")
    network.symlink_to(tmp_path / "blob")
    Generator.load(copy).close()
    network.unlink()
    network.symlink_to("/etc/passwd")
    assert "bytes" in refusal(lambda: Generator.load(copy))
    network.unlink()
    network.symlink_to("/dev/zero")
    assert "missing" in refusal(lambda: Generator.load(copy))


@pytest.mark.parametrize("name", CPU)
def test_networks_that_differ_from_the_manifest_are_refused_on_every_backend(copy: Path, name: str) -> None:
    shutil.copy(copy / "mapping.onnx", copy / Bundle.load(copy).network("fp32", name))
    list_files(copy)
    line = refusal(lambda: Generator.load(copy, name))
    assert "does not fit bundle.json" in line or "torch backend does not know" in line


def external_weights(network: Path, file: str) -> None:
    """Move the largest tensor of a network into a file beside it."""
    model = onnx.load(network)
    tensor = max(model.graph.initializer, key=lambda t: t.ByteSize())
    content = numpy_helper.to_array(tensor).tobytes()
    (network.parent / file).write_bytes(content)
    tensor.raw_data = content
    external_data_helper.set_external_data(tensor, file, 0, len(content))
    tensor.ClearField("raw_data")
    network.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("name", CPU)
def test_weights_in_a_file_that_the_manifest_does_not_list_are_refused(copy: Path, name: str) -> None:
    external_weights(copy / Bundle.load(copy).network("fp32", name), "hidden.bin")
    list_files(copy)
    assert "hidden.bin" in refusal(lambda: Generator.load(copy, name))


def test_weights_in_another_file_are_found_in_subgraphs_and_attributes_too(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.zeros(4, np.float32), "v")
    external_data_helper.set_external_data(value, "../elsewhere", 0, 16)
    value.ClearField("raw_data")
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [4])
    inner = helper.make_graph([helper.make_node("Constant", [], ["o"], value=value)], "inner", [], [out])
    node = helper.make_node("If", ["c"], ["image"], then_branch=inner, else_branch=inner)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph([node], "g", [condition], [helper.make_tensor_value_info("image", TensorProto.FLOAT, [4])])
    file = tmp_path / "network.onnx"
    file.write_bytes(helper.make_model(graph).SerializeToString())
    assert "../elsewhere" in refusal(lambda: check_network_file(file, ("weights.bin",)))


@pytest.mark.parametrize("part", [1, 3, 8, 64])
def test_the_word_location_is_found_across_the_parts_in_which_a_file_is_read(
    copy: Path, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylert.runtime.network_files.PART_BYTES", part)
    file = copy / "mapping.onnx"
    check_network_file(file)
    external_weights(file, "hidden.bin")
    assert "hidden.bin" in refusal(lambda: check_network_file(file))
    file.write_bytes(b"")
    assert "it is empty" in refusal(lambda: check_network_file(file))


def test_a_network_beyond_two_gib_is_refused_before_and_after_lowering(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = bundle.checked_file("synthesis.fp32.onnx")
    size = network.stat().st_size
    monkeypatch.setattr("stylert.runtime.lowering.MAX_BYTES", size // 2)
    assert "larger than 2 GiB" in refusal(lambda: lower(network, tmp_path / "lowered.onnx"))
    monkeypatch.setattr("stylert.runtime.network_files.MAX_BYTES", size - 1)
    assert "is larger than" in refusal(lambda: lower(network, tmp_path / "lowered.onnx"))
    assert list(tmp_path.iterdir()) == []


WRONG_ENGINES: dict[str, Callable[[Path], object]] = {
    "the engine is gone": lambda d: (d / "engine.onnx").unlink(),
    "the weights are gone": lambda d: (d / "weights.bin").unlink(),
    "companions as a list": lambda d: rewrite(d / "engine.json", lambda e: e.update(companions=[])),
    "a companion elsewhere": lambda d: rewrite(d / "engine.json", lambda e: e["companions"].update({"/etc/passwd": "0" * 64})),
    "a companion above": lambda d: rewrite(d / "engine.json", lambda e: e["companions"].update({"../../x": "0" * 64})),
    "the weights are not listed": lambda d: rewrite(d / "engine.json", lambda e: e["companions"].clear()),
    "no key": lambda d: rewrite(d / "engine.json", lambda e: e.pop("key")),
    "a key of numbers": lambda d: rewrite(d / "engine.json", lambda e: e["key"].update(version=7)),
    "brackets": lambda d: (d / "engine.json").write_text("[" * 200_000),
    "a list": lambda d: (d / "engine.json").write_text("[]"),
}


@pytest.fixture
def engine(copy: Path) -> Path:
    bundle = Bundle.load(copy)
    build_engine(bundle, "onnxruntime", "fp32")
    return engine_folder(bundle, engine_key(bundle, "onnxruntime", "fp32"))


@pytest.mark.parametrize("wrong", WRONG_ENGINES)
def test_a_damaged_engine_is_one_line_that_advises_a_build_of_this_bundle_and_a_build_repairs_it(
    copy: Path, engine: Path, wrong: str
) -> None:
    WRONG_ENGINES[wrong](engine)
    line = refusal(lambda: Generator.load(copy))
    assert line.endswith(f"stylert build {copy}")
    assert "remove" not in line
    assert not build_engine(Bundle.load(copy), "onnxruntime", "fp32")["reused"]
    Generator.load(copy).close()


def test_an_engine_reads_no_file_but_its_own_weights(copy: Path, engine: Path) -> None:
    """Also where `engine.json` has the sha256 of an engine that names another file."""
    model = onnx.load(engine / "engine.onnx", load_external_data=False)
    (engine / "other.bin").write_bytes((engine / "weights.bin").read_bytes())
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "other.bin"
    (engine / "engine.onnx").write_bytes(model.SerializeToString())
    digest = hashlib.sha256((engine / "engine.onnx").read_bytes()).hexdigest()
    rewrite(engine / "engine.json", lambda e: e.update(sha256=digest))
    assert "other.bin" in refusal(lambda: Generator.load(copy))


def test_files_of_others_in_an_engines_folder_are_never_replaced(copy: Path, engine: Path) -> None:
    (engine / "notes.txt").write_text("mine")
    refusal(lambda: build_engine(Bundle.load(copy), "onnxruntime", "fp32", force=True))
    assert (engine / "notes.txt").read_text() == "mine"


def test_the_flags_of_a_strangers_gpu_engine_are_checked(copy: Path, engine: Path) -> None:
    record = read_record(engine)
    assert record is not None
    refusal(lambda: record.flags)  # a CPU engine has no batches


MUTATE = """
import faulthandler, random, sys
from pathlib import Path
from stylert.core.machine.host import peak_memory_mib
from tests.runtime.mutations import KINDS
kind, folder, seed, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
for number in range(count):
    print(number, flush=True)
    faulthandler.dump_traceback_later(60, exit=True)
    KINDS[kind](folder, random.Random(f"{seed} {number}"))
print("peak MiB", int(peak_memory_mib()))
"""


@pytest.mark.parametrize(
    ("kind", "count", "many"),
    [
        ("manifest", 40, 2000),
        ("engine", 30, 1000),
        ("recipe", 300, 20_000),
        ("onnxruntime", 40, 2000),
        ("openvino", 6, 200),
        ("torch", 3, 500),
    ],
)
def test_mutated_files_load_or_are_refused_in_one_line(copy: Path, engine: Path, kind: str, count: int, many: int) -> None:
    """In a process of its own: a crash of a library, or one that hangs, fails the test with the number of the mutation."""
    if kind in KINDS_OF_NETWORKS and kind not in CPU:
        pytest.skip(f"{kind} is not installed")
    budget = fuzz_budget(count, many)
    command = [sys.executable, "-c", MUTATE, kind, str(copy), str(random.getrandbits(32)), str(budget)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[4:]}: {done.stdout[-100:]} {done.stderr[-3000:]}"
    words = done.stdout.splitlines()[-1].split()
    assert int(words[2]) < 1024, f"{command[4:]}: {words}"
