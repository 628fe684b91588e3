"""A network of launches, in Triton's interpreter, computes what its nodes compute one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from stylert.core.images.similarity import psnr
from stylert.export.pipeline import export_bundle
from stylert.runtime.backends.torch_network import fusion

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

#: Least PSNR in dB to the float32 nodes, over the range of their images. It is rounding that is left.
LEAST_PSNR = {"fp32": 90.0, "fp16": 50.0}


@pytest.fixture(scope="module")
def networks(make_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that exports a random generator and returns the bundle's folder."""

    def export(noise: str = "const", output: str = "float", **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("networks") / "bundle"
        changes = {"channel_base": 128, "channel_max": 16, "resolution": 8} | changes
        options: dict[str, Any] = {"noise": noise, "output": output}
        return export_bundle(make_checkpoint(**changes), folder, ["fp32", "fp16"], backends=[], **options).path

    return export


def graph_of(file: Path, kernels: bool, monkeypatch: pytest.MonkeyPatch) -> Any:
    from stylert.runtime.backends.torch_network.graph import TorchGraph

    monkeypatch.setenv("TRITON_INTERPRET", str(int(kernels)))
    return TorchGraph(file, "cpu")


def images_of(file: Path, kernels: bool, seed: int, n: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The images of a file's nodes, or with `kernels` of its launches, for the inputs of a seed."""
    graph, rng = graph_of(file, kernels, monkeypatch), np.random.default_rng(seed)
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors if tensor.is_input}
    inputs = {name: torch.from_numpy(rng.standard_normal((n, *shape), np.float32)) for name, shape in shapes.items()}
    images: np.ndarray = graph(inputs).numpy().astype(np.float64)
    return images


def launched(graph: Any) -> list[str]:
    """The names of the launches."""
    return [node.name for node in graph.nodes if type(node.run).__name__ in ("ConvLaunch", "RgbLaunch")]


NETWORKS: dict[str, dict[str, Any]] = {
    "skip": {},
    "bytes": {"output": "uint8"},
    "bytes of one channel": {"output": "uint8", "img_channels": 1},
    "noise inputs": {"noise": "input"},
    "no noise": {"noise": "none"},
    "no clamp": {"conv_clamp": None},
    "resnet": {"architecture": "resnet"},
    "orig": {"architecture": "orig", "img_channels": 4},
    "five channels": {"img_channels": 5},
    "one block": {"resolution": 4},
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("changes", NETWORKS.values(), ids=NETWORKS)
def test_the_image_is_that_of_the_nodes(
    networks: Callable[..., Path], changes: dict[str, Any], precision: str, rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    bundle = networks(**changes)
    seed, n = int(rng.integers(2**32)), int(rng.integers(1, 4))
    exact = images_of(bundle / "synthesis.fp32.onnx", False, seed, n, monkeypatch)
    images = images_of(bundle / f"synthesis.{precision}.onnx", True, seed, n, monkeypatch)
    assert images.shape == exact.shape
    least = min(LEAST_PSNR[precision], 60.0) if changes.get("output") == "uint8" else LEAST_PSNR[precision]
    assert psnr(images, exact, float(np.ptp(exact))) >= least


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "separate"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_layer_is_one_launch_and_only_styles_are_nodes(
    networks: Callable[..., Path], precision: str, fused: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:
        monkeypatch.setattr(fusion, "RGB_CHANNELS", 8)  # all layers have 16
    file = networks(output="uint8") / f"synthesis.{precision}.onnx"
    graph = graph_of(file, True, monkeypatch)
    with_rgb = ["b4.conv1 b4.torgb", "b8.conv0", "b8.conv1 b8.torgb"]
    separate = ["b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1", "b8.torgb"]
    # The order of a torgb and the next block is free.
    assert sorted(launched(graph)) == sorted(with_rgb if fused else separate)
    others = [node for node in graph.nodes if node.name not in launched(graph)]
    assert len(others) <= 24  # the two batched products, and a slice for each style and demodulation
    assert graph.nodes[-1].outputs == ("image",)
    seed = int(rng.integers(2**32))
    nodes, launches = (images_of(file, kernels, seed, 2, monkeypatch) for kernels in (False, True))
    assert np.abs(nodes - launches).max() <= (1 if precision == "fp32" else 4)


def find(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.output[0] == name)


def constant(model: onnx.ModelProto, value: Any) -> str:
    name = f"new_constant_{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def other_bytes(model: onnx.ModelProto) -> None:
    find(model, "shifted").input[1] = constant(model, np.float32(100))


def other_range_of_bytes(model: onnx.ModelProto) -> None:
    find(model, "clipped").input[2] = constant(model, np.float32(100))


def crooked_clamp(model: onnx.ModelProto) -> None:
    find(model, "b8.torgb.planes").input[1] = constant(model, np.float32(-0.1))


def weaker_upsampling(model: onnx.ModelProto) -> None:
    set_attribute(find(model, "b8.upsampled"), "gain", 2.0)


def image_read_twice(model: onnx.ModelProto) -> None:
    """The image before the sum is also added to the result."""
    index = [node.output[0] for node in model.graph.node].index("scaled")
    model.graph.node.insert(index, helper.make_node("Add", ["b8.img", "b8.torgb"], ["twice"], "twice"))
    find(model, "scaled").input[0] = "twice"


def bias_of_each_pixel(model: onnx.ModelProto) -> None:
    find(model, "b8.torgb.biased").input[1] = constant(model, np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 64))


def norm_of_another_layer(model: onnx.ModelProto) -> None:
    norm = next((node for node in model.graph.node if node.output[0] == "b8.torgb.norm"), None)
    if norm is None:
        pytest.skip("only float16 has norms")
    norm.input[1] = constant(model, np.int64(0))


def image_of_the_activations_below(model: onnx.ModelProto) -> None:
    """The image that b8 adds to comes from b8's own activations. No launch could make both."""
    weight = np.random.default_rng(0).standard_normal((3, 16, 1, 1)).astype(np.float32) * 0.1
    index = [node.output[0] for node in model.graph.node].index("b8.upsampled")
    source = "b8.conv1"
    if any(node.output[0] == "b8.torgb.single" for node in model.graph.node):  # torgb's result is float32
        model.graph.node.insert(index, helper.make_node("Cast", [source], ["activations"], "activations", to=1))
        source, index = "activations", index + 1
    small = helper.make_node("Conv", [source, constant(model, weight)], ["small"], "small", strides=[2, 2], pads=[0, 0, 0, 0])
    model.graph.node.insert(index, small)
    find(model, "b8.upsampled").input[0] = "small"


CHANGES = [
    other_bytes, other_range_of_bytes, crooked_clamp, weaker_upsampling, image_read_twice, bias_of_each_pixel,
    norm_of_another_layer, image_of_the_activations_below,
]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_network_that_differs_from_the_exporters_is_computed_as_it_is(
    networks: Callable[..., Path], change: Callable[[onnx.ModelProto], None], precision: str, tmp_path: Path,
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    file = networks(output="uint8") / f"synthesis.{precision}.onnx"
    model = onnx.load(file)
    change(model)
    onnx.save(model, tmp_path / "changed.onnx")
    seed = int(rng.integers(2**32))
    nodes, launches = (images_of(tmp_path / "changed.onnx", kernels, seed, 1, monkeypatch) for kernels in (False, True))
    assert psnr(launches, nodes) >= (60 if precision == "fp32" else 45)
    assert psnr(nodes, images_of(file, False, seed, 1, monkeypatch)) < 45, "the change changes nothing: it tests nothing"


def test_without_the_kernels_every_node_stays(networks: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file = networks() / "synthesis.fp32.onnx"
    graph = graph_of(file, False, monkeypatch)
    assert [node.name for node in graph.nodes] == [node.output[0] for node in onnx.load(file).graph.node]
    assert launched(graph) == []
