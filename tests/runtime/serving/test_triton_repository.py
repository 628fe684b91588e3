"""The model repository is what Triton's own messages describe, and its networks make the generator's images."""

from __future__ import annotations

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
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as official

from stylert.core.errors import InputError, OutputError, StylertError
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.serving.triton_repository import PYTHON_MODEL, TritonOptions, message_text, write_repository


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
    assert write_repository(bundle, tmp_path / "repo", options) == ["faces_mapping", "faces_synthesis", "faces"]
    parsed = configs(tmp_path / "repo")
    for name in ("faces_mapping", "faces_synthesis"):
        config = parsed[name]
        assert (config.backend, config.max_batch_size, config.response_cache.enable) == (backend, 4, True)
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
