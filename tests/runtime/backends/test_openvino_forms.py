"""The FIR along x folded into upsampling layers for OpenVINO: the same numbers, and only the layers that gain from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stylert.core.machine.processor_class import AMX, AVX512_VNNI, CLASSES
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import backend, openvino_forms
from stylert.runtime.backends.openvino_forms import FORM, fold_along_x, form_here
from stylert.runtime.build_options import BuildOptions
from tests.export.networks import assert_close, run

pytest.importorskip("openvino")


def up_layer(
    rng: np.random.Generator, channels: int, fir: np.ndarray, bias: bool = False, **changes: object
) -> onnx.ModelProto:
    """A transposed convolution of 5 channels and a FIR. `changes` are attributes of the former."""
    weight = rng.standard_normal((5, channels, 3, 3)).astype(np.float32)
    initializers = {"weight": weight, "fir": np.broadcast_to(fir, (channels, 1, 4, 4)).astype(np.float32)}
    if bias:
        initializers["bias"] = rng.standard_normal(channels).astype(np.float32)
    attributes = {"strides": [2, 2], **changes}
    nodes = [
        helper.make_node("ConvTranspose", ["x", "weight"], ["y"], name="conv", **attributes),
        helper.make_node("Conv", ["y", "fir", *(["bias"] if bias else [])], ["z"], name="fir", pads=[1] * 4, group=channels),
        helper.make_node("Neg", ["z"], ["image"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 5, None, None])],
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, channels, None, None])],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 2), (6, 7)])
def test_a_folded_layer_computes_the_same_numbers_for_any_separable_fir_and_size(
    rng: np.random.Generator, size: tuple[int, int], bias: bool
) -> None:
    model = up_layer(rng, 6, np.outer(rng.uniform(0.1, 1, 4), rng.uniform(0.1, 1, 4)), bias)
    x = rng.standard_normal((2, 5, *size)).astype(np.float32)
    expected = run(model, x=x)
    assert fold_along_x(model) == ["conv"]
    onnx.checker.check_model(model, full_check=True)
    assert expected.shape[2:] == (2 * size[0], 2 * size[1])
    assert_close(run(model, x=x), expected, 1e-6)


def test_only_layers_of_few_channels_that_the_form_can_write_are_folded(rng: np.random.Generator) -> None:
    separable = np.outer([1, 3, 3, 1], [1, 3, 3, 1])
    other = separable.copy()
    other[0, 0] = 2
    shared = up_layer(rng, 6, separable)
    shared.graph.output.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, None))
    for model in (
        up_layer(rng, 33, separable),
        up_layer(rng, 6, other),
        up_layer(rng, 6, np.outer([1, 0, 0, -1], [1, 3, 3, 1])),
        up_layer(rng, 6, separable, strides=[2, 1]),
        up_layer(rng, 6, separable, output_padding=[1, 1]),
        up_layer(rng, 6, separable, pads=[1, 1, 1, 1]),
        shared,
    ):
        before = model.SerializeToString(deterministic=True)
        assert fold_along_x(model) == []
        assert model.SerializeToString(deterministic=True) == before
    assert fold_along_x(up_layer(rng, 32, separable)) == ["conv"]


def test_the_form_is_for_bfloat16_with_amx_and_an_engine_is_known_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in CLASSES:
        monkeypatch.setattr(openvino_forms, "processor_class", lambda row=row: row)
        assert form_here("f32") is None
        assert form_here("bf16") == (FORM if row == AMX else None)
        for precision in ("fp32", "fp16", "bf16", "int8"):
            flags = backend("openvino").flags(precision, BuildOptions())
            assert ("form" in flags) == (row == AMX and precision in ("bf16", "int8"))


def test_images_with_the_form_are_those_without(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a processor without bfloat16 both are float32."""
    entry = dataclasses.replace(bundle.precision("fp32"), min_psnr_db=35.0)
    both = dataclasses.replace(bundle, precisions={"fp32": bundle.precision("fp32"), "bf16": entry})
    images = {}
    folded: list[list[str]] = []
    fold = openvino_forms.fold_along_x
    monkeypatch.setattr(
        "stylert.runtime.backends.openvino.fold_along_x", lambda model: folded.append(fold(model)) or folded[-1]
    )
    for row in (AMX, AVX512_VNNI):
        monkeypatch.setattr(openvino_forms, "processor_class", lambda row=row: row)
        with Generator.load(both, "openvino", "bf16") as g:
            images[row] = g(range(4)).astype(float)
    assert folded[0] == ["b8.conv0.conv", "b16.conv0.conv"]
    error = np.square(images[AMX] - images[AVX512_VNNI]).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 40
