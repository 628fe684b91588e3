"""MNN runs the bundle's networks as ONNX Runtime does, and its converter neither installs nor sends anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from stylert.core.errors import BundleError
from stylert.core.images.similarity import psnr
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends.base import LoadOptions
from stylert.runtime.backends.mnn import BACKEND, MAX_BATCH
from stylert.runtime.engines import build_engine

pytest.importorskip("MNN")

CATS = Path(__file__).parents[3] / "examples" / "cats64.safetensors"


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("cats") / "bundle"
    return export_bundle(CATS, folder, ["fp32", "fp16", "int8"], backends=["mnn"], verify_seeds=0)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least"), [("fp32", 76.0), ("fp16", 50.0), ("int8", 35.0)])
def test_images_are_those_of_onnx_runtime_in_float32(cats: Bundle, precision: str, least: float) -> None:
    with Generator.load(cats) as reference, Generator.load(cats, "mnn", precision) as g:
        for a, b in zip(reference(range(8)), g(range(8)), strict=True):
            assert psnr(a, b) >= least


def test_batches_that_change_give_the_images_of_single_calls(bundle: Bundle) -> None:
    with Generator.load(bundle, "mnn", threads=1) as g:
        singles = np.concatenate([g([seed]) for seed in range(MAX_BATCH + 3)])
        for n in (1, 3, 2, MAX_BATCH, MAX_BATCH + 3, 1):
            assert np.abs(g(range(n)).astype(int) - singles[:n]).max() <= 1


def test_a_network_with_noise_inputs_and_float_images_runs(checkpoint: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    bundle = export_bundle(checkpoint, tmp_path / "b", ["fp32"], noise="input", output="float", verify_seeds=0)
    noise = {n: rng.standard_normal((2, 1, side, side), np.float32) for n, side in bundle.noise_inputs.items()}
    with Generator.load(bundle) as reference, Generator.load(bundle, "mnn") as g:
        expected = reference([5, 6], noise=noise)
        np.testing.assert_allclose(g([5, 6], noise=noise), expected, atol=2e-5 * np.abs(expected).max())


def test_one_engine_serves_every_number_of_threads(bundle: Bundle, tmp_path: Path, checkpoint: Path) -> None:
    copy = export_bundle(checkpoint, tmp_path / "bundle", ["fp32"], verify_seeds=0)
    build_engine(copy, "mnn", "fp32")
    for threads in (None, 1, 2):
        with Generator.load(copy, "mnn", threads=threads) as g:
            assert g.engine is not None


def network(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """A file with the nodes between `ws [N, 2, 4, 4]` and `image`."""
    inputs = [helper.make_tensor_value_info("ws", TensorProto.FLOAT, ["N", 2, 4, 4])]
    outputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", None, None, None])]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    file = tmp_path / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    return file


def on_mnn(file: Path, x: np.ndarray, precision: str = "fp32") -> np.ndarray:
    session = BACKEND.load(file, LoadOptions(precision, threads=1))
    image = session.run({"ws": x})
    session.close()
    return image


@pytest.mark.parametrize("pads", [[1, 0, 2, 3], [0, 0, 0, 0]])
def test_pads_of_some_axes_are_those_of_onnx(tmp_path: Path, rng: np.random.Generator, pads: list[int]) -> None:
    constants = {"pads": np.array(pads), "zero": np.zeros((), np.float32), "axes": np.array([2, 3])}
    file = network([helper.make_node("Pad", ["ws", "pads", "zero", "axes"], ["image"])], constants, tmp_path)
    x = rng.standard_normal((1, 2, 4, 4), np.float32)
    np.testing.assert_array_equal(on_mnn(file, x), ReferenceEvaluator(str(file)).run(None, {"ws": x})[0])


def quantized_convolution(scale: str, constants: dict[str, np.ndarray], tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("Abs", ["ws"], ["size"]),
        helper.make_node("ReduceMax", ["size"], ["computed"], keepdims=0),
        helper.make_node("QuantizeLinear", ["ws", scale], ["q"]),
        helper.make_node("DequantizeLinear", ["q", scale], ["x"]),
        helper.make_node("DequantizeLinear", ["levels", "steps", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["x", "w"], ["image"], pads=[1, 1, 1, 1]),
    ]
    return network(nodes, constants, tmp_path)


def test_eight_bit_weights_are_kept_and_activations_stay_float(tmp_path: Path, rng: np.random.Generator) -> None:
    levels = rng.integers(-127, 128, (3, 2, 3, 3)).astype(np.int8)
    levels[:, 0, 0, 0] = 127  # so that the range of each output channel is that of its levels
    steps = np.array([0.1, 0.01, 0.5], np.float32)
    constants = {"levels": levels, "steps": steps, "zeros": np.zeros(3, np.int8), "coarse": np.array(0.5, np.float32)}
    file = quantized_convolution("coarse", constants, tmp_path)
    x = rng.standard_normal((1, 2, 4, 4), np.float32)
    weights = levels * steps.astype(np.float64).reshape(-1, 1, 1, 1)
    padded = np.pad(x[0], ((0, 0), (1, 1), (1, 1)))
    expected = np.array([[[(padded[:, i : i + 3, j : j + 3] * w).sum() for j in range(4)] for i in range(4)] for w in weights])
    assert np.abs(on_mnn(file, x, "int8")[0] - expected).max() < 1e-5 * np.abs(expected).max()


def test_scales_that_the_network_computes_are_refused_in_one_line(tmp_path: Path) -> None:
    constants = {
        "levels": np.ones((3, 2, 3, 3), np.int8),
        "steps": np.ones(3, np.float32),
        "zeros": np.zeros(3, np.int8),
    }
    file = quantized_convolution("computed", constants, tmp_path)
    with pytest.raises(BundleError, match="computes scales of its quantisation") as e:
        BACKEND.load(file, LoadOptions("int8"))
    assert "\n" not in str(e.value)


def test_an_operator_that_mnn_lacks_is_refused_in_one_line(tmp_path: Path) -> None:
    file = network([helper.make_node("StringNormalizer", ["ws"], ["image"])], {}, tmp_path)
    with pytest.raises(BundleError) as e:
        BACKEND.load(file, LoadOptions("fp32"))
    assert "\n" not in str(e.value)


BUILD = """
import sys
from stylert.runtime import Bundle, Generator
from stylert.runtime.engines import build_engine
bundle = Bundle.load(sys.argv[1])
build_engine(bundle, "mnn", "fp32", force=True)
with Generator.load(bundle, "mnn") as g:
    g([1])
print([name for name in sys.modules if name.startswith("MNN.tools")])
"""


def test_a_build_starts_no_pip_and_prints_nothing(checkpoint: Path, tmp_path: Path) -> None:
    """The command of MNN's wheel installs a package with `pip`, in whichever Python comes first on the PATH."""
    bundle = export_bundle(checkpoint, tmp_path / "bundle", ["fp32"], verify_seeds=0)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("pip", "pip3"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        (programs / name).chmod(0o755)
    env = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path / "home")}
    env.pop("XDG_CACHE_HOME", None)
    command = [sys.executable, "-c", BUILD, str(bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert not (tmp_path / "called").exists()
    written = [file for file in (tmp_path / "home").rglob("*") if file.is_file()]
    assert all(file.is_relative_to(tmp_path / "home" / ".cache" / "stylert") for file in written)


#: Runs a network without a standard output. At the end, descriptor 1 is as it was, and no file holds what MNN prints.
WITHOUT_STDOUT = """
import os, sys
network, how, folder = sys.argv[1:]
if how == "closed descriptor":
    os.close(1)
if how == "closed stream":
    sys.stdout = open(os.dup(1), "w")
    sys.stdout.close()
else:
    sys.stdout = None
from pathlib import Path
import numpy as np
from stylert.runtime.backends.base import LoadOptions
from stylert.runtime.backends.mnn import BACKEND, library
library()
session = BACKEND.load(Path(network), LoadOptions("fp32"))
session.run({"ws": np.zeros((1, 2, 4, 4), np.float32)})
try:
    os.fstat(1)
    is_open = True
except OSError:
    is_open = False
assert is_open == (how != "closed descriptor")
file = os.open(os.path.join(folder, "next"), os.O_CREAT | os.O_WRONLY)
assert (file == 1) == (not is_open)
"""


@pytest.mark.parametrize("how", ["closed descriptor", "no stream", "closed stream"])
def test_a_process_without_standard_output_runs_networks(how: str, tmp_path: Path) -> None:
    file = network([helper.make_node("Neg", ["ws"], ["image"])], {}, tmp_path)
    command = [sys.executable, "-c", WITHOUT_STDOUT, str(file), how, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "next").read_bytes() == b""
