"""The TensorRT backend with a stand-in for its library: errors, keys, and the choice of the engine.

TensorRT itself neither builds nor runs in these tests. It shares its builder with TensorRT-RTX, see `test_tensorrt_rtx.py`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from stylert.core.errors import BackendError, BundleError, InputError
from stylert.core.machine.devices import Driver, Gpu
from stylert.export.pipeline import export_bundle
from stylert.plugins import tensorrt as plugins
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends, tensorrt
from stylert.runtime.backends.tensorrt_build import kernel_facts
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.engines import build_engine, engine_folder, engine_key
from stylert.runtime.loading import engine_to_load

TENSORRT = tensorrt.BACKEND


@pytest.fixture
def fake_library(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module named `tensorrt` that has a version and nothing else."""
    library = SimpleNamespace(__version__="11.4.0.106", __spec__=SimpleNamespace(name="tensorrt"))
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    return library


def set_gpus(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu) -> None:
    driver = Driver("13.0", gpus, None if gpus else "no NVIDIA driver is installed")
    monkeypatch.setattr("stylert.runtime.backends.tensorrt.find_gpus", lambda: driver)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_the_library_errors_of_building_and_running_name_the_install_command(bundle: Bundle) -> None:
    for attempt in (lambda: build_engine(bundle, "tensorrt", "fp32"), lambda: Generator.load(bundle, "tensorrt")):
        with pytest.raises(BackendError, match=r"pip install 'stylert\[tensorrt\]'"):
            attempt()
    assert "tensorrt" not in available_backends()


def test_without_a_gpu_nothing_is_built(bundle: Bundle, fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    set_gpus(monkeypatch)
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        build_engine(bundle, "tensorrt", "fp32")
    assert "no NVIDIA driver" in TENSORRT.unavailable_reason()


def test_an_old_library_is_refused_by_its_version(fake_library: SimpleNamespace) -> None:
    for old in ("8.6.1", "10.2.0"):
        fake_library.__version__ = old
        with pytest.raises(BackendError, match=r"too old.*10\.3"):
            TENSORRT.version()
    for new in ("10.3.0", "10.15.0", "11.4.0.106"):
        fake_library.__version__ = new
        assert TENSORRT.version() == new


def test_a_library_that_cannot_be_imported_is_an_error_of_one_line(
    fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> object:
            if name == "tensorrt":
                return importlib.util.spec_from_loader(name, Broken)  # type: ignore[arg-type]
            return None

        @staticmethod
        def create_module(spec: object) -> None:
            raise ImportError("libnvinfer.so.11: cannot open\nshared object file")

        @staticmethod
        def exec_module(module: object) -> None: ...

    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    with pytest.raises(BackendError, match="libnvinfer") as e:
        TENSORRT.version()
    assert "\n" not in str(e.value)


def test_an_engine_is_for_one_model_of_gpu_unless_it_is_hardware_compatible(
    bundle: Bundle, fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gpus(monkeypatch, Gpu(0, "GPU A", (8, 9), 2**34))
    key = engine_key(bundle, "tensorrt", "int8")
    compatible = engine_key(bundle, "tensorrt", "int8", BuildOptions(hardware_compatible=True))
    assert (key.target, key.machine, compatible.machine) == ("sm_89", "GPU A", "")
    keys = {
        engine_key(bundle, "tensorrt", "fp32", BuildOptions(**options)).digest  # type: ignore[arg-type]
        for options in ({}, {"plugins": True}, {"level": 5}, {"version_compatible": True}, {"hardware_compatible": True})
    }
    assert len(keys) == 5
    with pytest.raises(InputError, match="tensorrt-rtx"):
        engine_key(bundle, "tensorrt", "int8", BuildOptions(target="sm_120"))
    set_gpus(monkeypatch, Gpu(0, "GPU B", (8, 9), 2**34))
    assert engine_key(bundle, "tensorrt", "int8").digest != key.digest
    assert engine_key(bundle, "tensorrt", "int8", BuildOptions(hardware_compatible=True)) == compatible


@pytest.fixture
def bundle_copy(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A copy of the bundle, for which `build_engine` writes a few bytes instead of running TensorRT."""

    def write(source: Path, precision: str, engine: Path, *rest: object) -> dict[str, object]:
        engine.write_bytes(b"plan")
        return {}

    monkeypatch.setattr(TENSORRT, "build", write)
    return Bundle.load(shutil.copytree(bundle.path, tmp_path / "bundle"))


def built(bundle: Bundle, **options: Any) -> Path:
    build_engine(bundle, "tensorrt", "fp32", BuildOptions(**options))
    return engine_folder(bundle, engine_key(bundle, "tensorrt", "fp32", BuildOptions(**options)))


def test_an_engine_is_loaded_only_on_gpus_and_versions_that_run_it(
    bundle_copy: Bundle, fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = Gpu(0, "GPU A", (8, 9), 2**34), Gpu(0, "GPU B", (8, 9), 2**34), Gpu(0, "GPU C", (7, 5), 2**34)
    set_gpus(monkeypatch, a)
    exact = built(bundle_copy)
    assert engine_to_load(bundle_copy, "tensorrt", "fp32") == exact
    set_gpus(monkeypatch, b)
    assert engine_to_load(bundle_copy, "tensorrt", "fp32") is None
    set_gpus(monkeypatch, a)
    anywhere = built(bundle_copy, hardware_compatible=True)
    later = built(bundle_copy, version_compatible=True)
    assert engine_to_load(bundle_copy, "tensorrt", "fp32") == exact
    set_gpus(monkeypatch, b)
    assert engine_to_load(bundle_copy, "tensorrt", "fp32") == anywhere
    set_gpus(monkeypatch, c)
    assert engine_to_load(bundle_copy, "tensorrt", "fp32") is None
    set_gpus(monkeypatch, a)
    for version, expected in (("11.10.0", later), ("12.0.1", later), ("11.3.9", None), ("10.15.0", None)):
        fake_library.__version__ = version
        assert engine_to_load(bundle_copy, "tensorrt", "fp32") == expected


def test_a_stripped_engine_is_loaded_with_the_network_that_holds_its_weights(
    bundle_copy: Bundle, fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gpus(monkeypatch, Gpu(0, "GPU A", (8, 9), 2**34))
    opened: list[tuple[object, ...]] = []

    def open_session(library: object, engine: Path, kernels: None = None, weights: Path | None = None) -> object:
        opened.append((library, engine.parent, weights is not None and b"ws" in weights.read_bytes()))
        return SimpleNamespace(device="cpu", tensors=bundle_copy.synthesis_tensors, close=lambda: None)

    monkeypatch.setattr("stylert.runtime.cuda.engine_session.CudaSession", open_session)
    stripped = built(bundle_copy, stripped=True)
    Generator.load(bundle_copy, "tensorrt").close()
    assert opened == [(fake_library, stripped, True)]
    whole = built(bundle_copy)
    Generator.load(bundle_copy, "tensorrt").close()
    assert opened[1:] == [(fake_library, whole, False)]


def test_the_lean_runtime_is_enough_for_a_version_compatible_engine(
    bundle_copy: Bundle, fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_gpus(monkeypatch, Gpu(0, "GPU A", (8, 9), 2**34))
    folder = built(bundle_copy, version_compatible=True)
    lean = SimpleNamespace(__version__="11.5.0", __spec__=SimpleNamespace(name="tensorrt_lean"))
    monkeypatch.setitem(sys.modules, "tensorrt_lean", lean)
    opened: list[tuple[object, Path]] = []

    def open_session(library: object, engine: Path) -> object:
        opened.append((library, engine.parent))
        return SimpleNamespace(device="cpu", tensors=bundle_copy.synthesis_tensors, close=lambda: None)

    monkeypatch.setattr("stylert.runtime.cuda.engine_session.CudaSession", open_session)
    Generator.load(bundle_copy, "tensorrt").close()  # both are installed, and the lean runtime is enough
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert TENSORRT.available()
    Generator.load(bundle_copy, "tensorrt").close()
    assert opened == [(lean, folder)] * 2
    assert TENSORRT.version() == "11.5.0"
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", lean)
    set_gpus(monkeypatch, Gpu(0, "GPU A", (8, 9), 2**34))
    with pytest.raises(BackendError, match=r"pip install 'stylert\[tensorrt\]'"):
        build_engine(bundle_copy, "tensorrt", "fp32", force=True)  # the lean runtime cannot build


@pytest.mark.parametrize(
    ("precision", "options", "message"),
    [
        ("int8", {}, "--plugins is for fp32 and fp16"),
        ("fp32", {"stripped": True}, "--plugins cannot build without weights"),
        ("fp32", {"hardware_compatible": True}, "--plugins builds for this GPU alone"),
    ],
)
def test_options_that_no_engine_with_plugins_can_follow_are_refused_before_the_build(
    bundle: Bundle,
    fake_library: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    precision: str,
    options: dict[str, Any],
    message: str,
) -> None:
    set_gpus(monkeypatch, Gpu(0, "GPU A", (8, 9), 2**34))
    with pytest.raises(InputError, match=message) as e:
        engine_key(bundle, "tensorrt", precision, BuildOptions(plugins=True, **options))
    assert "\n" not in str(e.value)


def test_an_engine_with_plugins_is_built_again_for_other_kernels_or_another_triton(
    bundle: Bundle, fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_gpus(monkeypatch, Gpu(0, "GPU A", (8, 9), 2**34))
    version = importlib.metadata.version

    def key(plugins: bool = True) -> str:
        return engine_key(bundle, "tensorrt", "fp32", BuildOptions(plugins=plugins)).digest

    ours, plain = key(), key(plugins=False)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0" if name == "triton" else version(name))
    other_triton = key()
    monkeypatch.undo()
    set_gpus(monkeypatch, Gpu(0, "GPU A", (8, 9), 2**34))
    monkeypatch.setitem(sys.modules, "tensorrt", fake_library)
    copied = shutil.copytree(Path(plugins.__file__).parent, tmp_path / "plugins")
    with (copied / "triton" / "conv_kernels.py").open("a") as source:
        source.write("# another kernel")
    monkeypatch.setattr(plugins, "__file__", str(copied / "tensorrt.py"))
    assert len({ours, plain, other_triton, key()}) == 4
    assert key(plugins=False) == plain


def test_a_build_with_plugins_gets_the_canonical_network_with_folded_weights(
    checkpoint: Path, fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also from a bundle whose TensorRT plan has no nodes of the operators. The engine is found when it is loaded."""
    set_gpus(monkeypatch, Gpu(0, "GPU A", (8, 9), 2**34))
    bundle = export_bundle(checkpoint, tmp_path / "bundle", ["fp16"], backends=["tensorrt"])
    assert bundle.network("fp16", "tensorrt") != bundle.precision("fp16").file
    fake_library.NetworkDefinitionCreationFlag = SimpleNamespace(PREFER_AOT_PYTHON_PLUGINS=3)
    monkeypatch.setattr(TENSORRT, "_register_plugins", lambda architecture: None)
    monkeypatch.setattr(tensorrt, "_save_timings", lambda *_: None)
    read: list[tuple[int, list[list[int]]]] = []

    def build(trt: object, network: Path, engine: Path, options: object, configure: Any, *rest: Any) -> dict[str, object]:
        model = onnx.load(network)
        shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
        weights = [shapes[node.input[1]] for node in model.graph.node if node.op_type == "ModulatedConv2d"]
        configure(None)
        read.append((rest[-1], weights))
        engine.write_bytes(b"plan")
        return {}

    monkeypatch.setattr("stylert.runtime.backends.tensorrt_build.build_engine_file", build)
    timings: list[str] = []
    monkeypatch.setattr(tensorrt, "_timing_cache", lambda config, file: timings.append(file.name))
    options = BuildOptions(plugins=True)
    build_engine(bundle, "tensorrt", "fp16", options)
    # TensorRT would take the times of other kernels for those of ours.
    assert timings == [f"tensorrt-11.4.0.106-sm_89-{plugins.kernels_digest()}.timing"]
    ((flags, weights),) = read
    assert flags == 1 << 3
    assert weights
    assert all(len(shape) == 5 and shape[0] in (1, 4) for shape in weights)
    assert engine_to_load(bundle, "tensorrt", "fp16") == engine_folder(bundle, engine_key(bundle, "tensorrt", "fp16", options))


def test_a_network_without_operator_nodes_is_refused_for_plugins(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no nodes of stylert's operators.*leave --plugins out"):
        tensorrt._prepared_for_plugins(bundle.path / "mapping.onnx", tmp_path / "plugins.onnx")


ONE_LINE = (
    "Name: b8.conv1.conv, LayerType: CaskConvolution, Inputs: [ { Name: x, Dimensions: [-1,32,8,8], Format/Datatype: Half }], "
    "Outputs: [ { Name: y, Dimensions: [-1,32,8,8], Format/Datatype: Half }], TacticName: t, StreamId: 0, "
    "Metadata: [ONNX Layer: b8.conv1.conv][ONNX Layer: b8.conv1.noisy]"
)


@pytest.mark.parametrize("logged", [True, False])
def test_the_table_of_kernels_comes_from_the_log_or_from_the_inspector_if_the_log_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: bool
) -> None:
    lines = [ONE_LINE, ONE_LINE.replace("b8.conv1.conv, Layer", "b8.torgb, Layer")]
    inspected: list[tuple[int, str]] = []
    inspector = SimpleNamespace(get_layer_information=lambda i, form: inspected.append((i, form)) or lines[i] + "\n")
    engine = SimpleNamespace(num_layers=2, create_engine_inspector=lambda: inspector)
    library = SimpleNamespace(
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine if plan == b"plan" else None),
        LayerInformationFormat=SimpleNamespace(ONELINE="one line"),
    )
    log = "\n".join(lines) if logged else "nothing of the kind"
    table = kernel_facts(library, SimpleNamespace(text=lambda: log), b"plan")
    assert inspected == ([] if logged else [(0, "one line"), (1, "one line")])
    assert (table["kernels"], [k["name"] for k in table["layers"]]) == (2, ["b8.conv1.conv", "b8.torgb"])
    assert table["layers"][0] == {
        "name": "b8.conv1.conv", "kind": "CaskConvolution", "reads": ["Half"], "writes": ["Half[-1,32,8,8]"],
        "origins": ["b8.conv1.conv", "b8.conv1.noisy"], "bytes": 8192, "macs": 0, "range": 0,
    }  # fmt: skip
    if not logged:  # an engine that the inspector cannot open, such as a stripped one, has no table
        assert kernel_facts(library, SimpleNamespace(text=lambda: log), b"another")["layers"] == []


def test_plugins_that_cannot_be_registered_are_an_error_of_one_line(fake_library: SimpleNamespace) -> None:
    fake_library.__version__ = "10.3"
    fake_library.__name__ = "tensorrt"
    with pytest.raises(BackendError, match=r"plugins need|Triton") as e:
        TENSORRT._register_plugins("sm_89")
    assert "\n" not in str(e.value)
