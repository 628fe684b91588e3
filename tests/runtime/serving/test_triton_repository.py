"""The model repository is what Triton's own messages describe, and its networks make the generator's images."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as official

from stylert.core.errors import InputError, OutputError, StylertError
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends.onnxruntime import UNSIGNED_WEIGHTS
from stylert.runtime.engines import EngineKey
from stylert.runtime.serving.triton.configurations import PYTHON_MODEL
from stylert.runtime.serving.triton.options import TritonOptions
from stylert.runtime.serving.triton.protobuf_text import message_text
from stylert.runtime.serving.triton.repository import write_repository


def configs(repository: Path) -> dict[str, Any]:
    """The configurations of a repository, read by the messages of the stock client."""
    parsed = {
        file.parent.name: text_format.Parse(file.read_text(), official.ModelConfig())
        for file in repository.glob("*/config.pbtxt")
    }
    assert all(config.name == name for name, config in parsed.items())
    return parsed


def dims(tensors: Any) -> dict[str, tuple[str, list[int]]]:
    return {t.name: (official.DataType.Name(t.data_type), list(t.dims)) for t in tensors}


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_networks_and_ensemble_agree_with_each_other_and_with_the_files(
    bundle: Bundle, tmp_path: Path, backend: str, precision: str
) -> None:
    options = TritonOptions(
        name="faces", backend=backend, precision=precision, max_batch=4, max_delay_ms=1.5, instances=2, threads=3, cache=True
    )
    repository = write_repository(bundle, tmp_path / "repo", options)
    assert repository.models == ("faces_mapping", "faces_synthesis", "faces")
    assert repository.command[1] == f"--model-repository={tmp_path / 'repo'}"
    assert "--cache-config=local,size=268435456" in repository.command
    parsed = configs(tmp_path / "repo")
    for name, runs_on in (("faces_mapping", "onnxruntime"), ("faces_synthesis", backend)):
        config = parsed[name]
        assert (config.backend, config.max_batch_size, config.response_cache.enable) == (runs_on, 4, True)
        assert (config.instance_group[0].count, config.instance_group[0].kind) == (2, official.ModelInstanceGroup.KIND_CPU)
        assert config.dynamic_batching.max_queue_delay_microseconds == 1500
        assert [warm.batch_size for warm in config.model_warmup] == [1, 4]
        file = tmp_path / "repo" / name / "1" / config.default_model_filename
        session = onnxruntime.InferenceSession(file)
        kinds = {"tensor(float)": "TYPE_FP32", "tensor(uint8)": "TYPE_UINT8"}
        for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert dims(ours) == {t.name: (kinds[t.type], t.shape[1:]) for t in theirs}
        for warm in config.model_warmup:
            assert {k: list(v.dims) for k, v in warm.inputs.items()} == {t.name: list(t.dims) for t in config.input}
    ensemble = parsed["faces"]
    assert (tmp_path / "repo" / "faces" / "1").is_dir()
    known = dims(ensemble.input)
    for step in ensemble.ensemble_scheduling.step:
        model = parsed[step.model_name]
        assert {name: known[tensor] for name, tensor in step.input_map.items()} == dims(model.input)
        known |= {tensor: dims(model.output)[name] for name, tensor in step.output_map.items()}
    assert dims(ensemble.output).items() <= known.items()


def test_the_networks_of_a_repository_make_the_generators_images(bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path / "repo", TritonOptions(name="x"))
    tensors: dict[str, Any] = {"z": z_from_seeds([1, 2], 24), "psi": np.full((2, 6), 0.7, np.float32)}
    for step in configs(tmp_path / "repo")["x"].ensemble_scheduling.step:  # as Triton runs an ensemble
        session = onnxruntime.InferenceSession(tmp_path / "repo" / step.model_name / "1" / "model.onnx")
        outputs = session.run(list(step.output_map), {name: tensors[tensor] for name, tensor in step.input_map.items()})
        tensors |= dict(zip(step.output_map.values(), outputs, strict=True))
    with Generator.load(bundle, threads=1) as g:
        assert np.abs(tensors["image"].astype(int) - g([1, 2], 0.7)).max() <= 1


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("vnni", [True, False])
def test_openvino_makes_the_generators_images_in_the_way_in_which_triton_opens_the_file(
    bundle: Bundle, tmp_path: Path, precision: str, vnni: bool
) -> None:
    openvino = pytest.importorskip("openvino")
    options = TritonOptions(name="x", backend="openvino", precision=precision, max_batch=4, instances=2, threads=1, vnni=vnni)
    write_repository(bundle, tmp_path / "repo", options)
    config = configs(tmp_path / "repo")["x_synthesis"]
    parameters = {name: value.string_value for name, value in config.parameters.items()}
    # Without padding, Triton's backend refuses every batch but the largest.
    assert parameters == {"ENABLE_BATCH_PADDING": "YES", "NUM_STREAMS": "2", "INFERENCE_NUM_THREADS": "2"}
    model = openvino.Core().read_model(tmp_path / "repo" / "x_synthesis" / "1" / config.default_model_filename)
    prepared = openvino.preprocess.PrePostProcessor(model)
    prepared.input("ws").tensor().set_layout(openvino.Layout("N..."))
    model = prepared.build()
    openvino.set_batch(model, config.max_batch_size)
    network = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with Generator.load(bundle, "openvino", precision, threads=1) as g:
        ws = g.map(z_from_seeds(range(4), 24), psi=0.7)
        images = network({"ws": ws})["image"]
        error = np.sqrt(np.mean(np.square(images.astype(float) - g.synthesize(ws))))
    assert error <= (1 if precision == "fp32" else 255 / 10 ** (30 / 20))


def test_a_server_without_vnni_gets_unsigned_numbers_that_are_the_same(bundle: Bundle, tmp_path: Path) -> None:
    images = []
    ws = np.random.default_rng(5).standard_normal((4, 6, 20)).astype(np.float32)
    for vnni in (True, False):
        write_repository(bundle, tmp_path / "repo", TritonOptions(name="x", precision="int8", vnni=vnni))
        file = tmp_path / "repo" / "x_synthesis" / "1" / "model.onnx"
        kinds = {tensor.data_type for tensor in onnx.load(file).graph.initializer}
        assert (onnx.TensorProto.INT8 in kinds) == vnni
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry(UNSIGNED_WEIGHTS, "1")  # exact on every processor
        images.append(onnxruntime.InferenceSession(file, options).run(["image"], {"ws": ws})[0].astype(int))
    assert np.abs(images[0] - images[1]).max() <= 1
    write_repository(bundle, tmp_path / "repo", TritonOptions(name="x", precision="fp32", vnni=False))
    network = bundle.checked_file(bundle.network("fp32", "onnxruntime"))
    assert (tmp_path / "repo" / "x_synthesis" / "1" / "model.onnx").read_bytes() == network.read_bytes()


def with_engine(bundle: Bundle, content: bytes, precision: str = "fp32", **flags: Any) -> str:
    """Put an engine of TensorRT into a bundle, as a build on a GPU writes it. Returns its name."""
    source = bundle.files[bundle.network(precision, "tensorrt")].sha256
    flags = {"batch": [[1, 4, 16]], "level": None, "tf32": False, **flags}
    key = EngineKey("tensorrt", "10.14.1", "sm_90", "NVIDIA H100", precision, source, flags)
    folder = bundle.path / "engines" / f"tensorrt-sm_90-{key.digest}"
    folder.mkdir(parents=True)
    (folder / "engine.engine").write_bytes(content)
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "build_seconds": 1.0}
    (folder / "engine.json").write_text(json.dumps({"key": dataclasses.asdict(key), **facts}))
    return folder.name


@pytest.fixture
def bundle_copy(bundle: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.load(shutil.copytree(bundle.path, tmp_path / "bundle"))


def test_an_engine_of_tensorrt_runs_on_the_gpu_beside_the_mapping_network(bundle_copy: Bundle, tmp_path: Path) -> None:
    with_engine(bundle_copy, b"plan", batch=[[1, 1, 2], [2, 8, 16]], version_compatible=True)
    with_engine(bundle_copy, b"other", precision="int8")
    options = TritonOptions(name="x", backend="tensorrt", max_batch=16, instances=2)
    repository = write_repository(bundle_copy, tmp_path / "repo", options)
    assert "--backend-config=tensorrt,version-compatible=true" in repository.command
    parsed = configs(tmp_path / "repo")
    assert parsed["x_mapping"].backend == "onnxruntime"
    config = parsed["x_synthesis"]
    (group,) = config.instance_group
    assert (config.backend, group.kind, group.count) == ("tensorrt", official.ModelInstanceGroup.KIND_GPU, 2)
    assert list(group.profile) == ["0", "1"]
    assert (tmp_path / "repo" / "x_synthesis" / "1" / config.default_model_filename).read_bytes() == b"plan"
    assert dims(config.output) == {"image": ("TYPE_UINT8", [16, 16, 3])}


def test_engines_that_triton_cannot_run_are_refused_with_advice(bundle_copy: Bundle, tmp_path: Path) -> None:
    def refusal(**changes: Any) -> str:
        with pytest.raises(StylertError) as refused:
            write_repository(bundle_copy, tmp_path / "repo", TritonOptions(**{"name": "x", "backend": "tensorrt", **changes}))
        assert not (tmp_path / "repo").exists()
        return str(refused.value)

    assert "stylert build" in refusal()
    first = with_engine(bundle_copy, b"plan")
    assert "1 to 16, and Triton gives it 1 to 32" in refusal(max_batch=32)
    second = with_engine(bundle_copy, b"stripped", stripped=True)
    assert f"{first}" in refusal()
    assert "has no weights" in refusal(engine=second)
    assert f"{second}" in refusal(engine="sm_90")
    (bundle_copy.path / "engines" / first / "engine.engine").write_bytes(b"nalp")
    assert "sha256" in refusal(engine=first)
    with pytest.raises(InputError, match="for the backend tensorrt"):
        TritonOptions(name="x", engine=first)


def python_model(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model of the Python backend, with a stand-in for the module that Triton gives it."""
    utils: Any = ModuleType("triton_python_backend_utils")
    utils.Tensor = lambda name, array: SimpleNamespace(name=name, as_numpy=lambda: array)
    utils.TritonError = str
    utils.InferenceResponse = lambda output_tensors=(), error=None: SimpleNamespace(tensors=output_tensors, error=error)
    utils.get_input_tensor_by_name = lambda request, name: request.get(name)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utils)
    spec = importlib.util.spec_from_file_location("model", repository / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = text_format.Parse((repository / "config.pbtxt").read_text(), official.ModelConfig())
    parameters = {name: {"string_value": value.string_value} for name, value in config.parameters.items()}
    model = module.TritonPythonModel()
    model.initialize({"model_config": json.dumps({"parameters": parameters})})
    return model


def test_the_python_model_answers_each_request_of_a_batch(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = export_bundle(make_checkpoint(c_dim=3), tmp_path / "bundle", ["fp32"], verify_seeds=0)
    write_repository(bundle, tmp_path / "repo", TritonOptions(name="x", backend="python", threads=1))
    config = configs(tmp_path / "repo")["x"]
    assert [tensor.name for tensor in config.input if not tensor.optional] == ["seed", "label"]
    model = python_model(tmp_path / "repo" / "x", monkeypatch)

    def request(**values: Any) -> dict[str, Any]:
        return {name: SimpleNamespace(as_numpy=lambda v=value: np.array(v)) for name, value in values.items()}

    first, wrong, second = model.execute(
        [
            request(seed=[[3], [4]], label=[[0], [2]]),
            request(seed=[[-1]], label=[[0]]),
            request(seed=[[5]], psi=[[0.5]], label=[[1]]),
        ]
    )
    assert "a seed is" in wrong.error
    with Generator.load(bundle, threads=1) as g:
        for answer, expected in ((first, g([3, 4], 1.0, labels=[0, 2])), (second, g([5], 0.5, labels=[1]))):
            assert answer.error is None
            assert np.abs(answer.tensors[0].as_numpy().astype(int) - expected).max() <= 1
    model.finalize()


def test_a_repository_replaces_its_own_files_alone(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "repo"
    write_repository(bundle, out, TritonOptions(name="x", backend="python"))
    write_repository(bundle, out, TritonOptions(name="y"))
    assert sorted(p.name for p in out.iterdir()) == ["stylert-repository.json", "y", "y_mapping", "y_synthesis"]
    (out / "mine.txt").write_text("kept")
    with pytest.raises(OutputError):
        write_repository(bundle, out, TritonOptions(name="x"))
    assert (out / "mine.txt").read_text() == "kept"
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle.path, damaged)
    (damaged / "mapping.onnx").write_bytes(b"damaged")
    with pytest.raises(StylertError):
        write_repository(Bundle.load(damaged), tmp_path / "new", TritonOptions(name="x"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("changes", [{"name": "a/b"}, {"name": "x", "backend": "pytorch"}, {"name": "x", "max_batch": 0}])
def test_options_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        TritonOptions(**changes)


def test_text_of_messages_is_quoted_where_it_is_text() -> None:
    text = message_text({"name": 'a "b"\n', "instance_group": [{"count": 2}, {"count": 3}]})
    parsed = text_format.Parse(text, official.ModelConfig())
    assert (parsed.name, [group.count for group in parsed.instance_group]) == ('a "b"\n', [2, 3])


def test_the_command_writes_a_repository(bundle: Bundle, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "stylert.cli.main",
        "deploy",
        "triton",
        str(bundle.path),
        "--out",
        str(tmp_path / "repo"),
    ]
    done = subprocess.run([*command, "--name", "x", "--precision", "int8"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, "x_mapping, x_synthesis, x" in done.stdout) == (0, True), done.stderr
    assert PYTHON_MODEL.is_file()
    done = subprocess.run([*command, "--name", "x", "--precision", "fp8"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_a_repository_does_not_replace_the_bundle_that_it_is_made_from(bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path, TritonOptions(name="cats", backend="python"))
    inner = Bundle.load(tmp_path / "cats" / "1" / "bundle")
    with pytest.raises(OutputError, match="an input lies in it"):
        write_repository(inner, tmp_path, TritonOptions(name="cats", backend="python"))
    inner.checked_file("mapping.onnx")


def test_a_configuration_that_somebody_has_changed_is_kept(bundle: Bundle, tmp_path: Path) -> None:
    write_repository(bundle, tmp_path, TritonOptions(name="cats"))
    (tmp_path / "cats" / "config.pbtxt").write_text("changed")
    with pytest.raises(OutputError, match=r"also holds cats/config\.pbtxt"):
        write_repository(bundle, tmp_path, TritonOptions(name="cats"))


@pytest.mark.parametrize("place", ["loop", "loop/x"])
def test_links_in_a_circle_are_refused_in_one_line(bundle: Bundle, tmp_path: Path, place: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError):
        write_repository(bundle, tmp_path / place, TritonOptions(name="x"))
