"""Exported StyleGAN3 networks compute the images of PyTorch, in both forms, for any batch and transform."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.core.errors import CheckpointError
from stylert.export.mapping import mapping_model
from stylert.export.stylegan3 import FilterForm, synthesis_model
from stylert.models.checkpoint import NetworkWeights, Stylegan3Weights
from stylert.models.stylegan3.config import GeneratorConfig
from stylert.models.stylegan3.networks import Generator
from stylert.plugins.onnx_functions import DOMAIN
from stylert.runtime.backends import tensorrt_rtx
from stylert.runtime.build_options import BuildOptions
from tests.models.stylegan3.float64_reference import Reference
from tests.models.stylegan3.test_networks import equivariance
from tests.models.stylegan3.tiny import configurations, random_transforms, randomized, rigid_transform, tiny_config

FORMS: tuple[FilterForm, ...] = ("operator", "plain")
seeds = st.integers(0, 2**31)


def weights_of(generator: Generator) -> Stylegan3Weights:
    return NetworkWeights(generator.cfg, {name: tensor.numpy() for name, tensor in generator.state_dict().items()}, {})


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def inputs(cfg: GeneratorConfig, n: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    ws = rng.standard_normal((n, cfg.num_ws, cfg.w_dim)).astype(np.float32)
    return {"ws": ws, "transform": random_transforms(rng, n).numpy()}


@settings(max_examples=30)
@given(cfg=configurations(), seed=seeds, form=st.sampled_from(FORMS))
def test_images_equal_the_formulas_for_any_batch(cfg: GeneratorConfig, seed: int, form: FilterForm) -> None:
    generator = randomized(cfg, seed)
    network = session(synthesis_model(weights_of(generator), form))
    exact = Reference(generator, cfg)
    for n in (1, 3):
        feed = inputs(cfg, n, seed)
        (image,) = network.run(None, feed)
        expected = exact.synthesis(*(feed[name].astype(np.float64) for name in ("ws", "transform")))
        assert image.dtype == np.float32
        assert image.shape == expected.shape
        assert np.abs(image - expected).max() <= 1e-5 * np.abs(expected).max()


@settings(max_examples=15)
@given(cfg=configurations(), seed=seeds)
def test_latents_equal_those_of_pytorch(cfg: GeneratorConfig, seed: int) -> None:
    generator = randomized(cfg, seed)
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((2, cfg.z_dim)).astype(np.float32)
    c = np.eye(3, dtype=np.float32)[[0, 2]]
    psi = np.full((2, cfg.num_ws), 0.7, np.float32)
    feed = {"z": z, "psi": psi} | ({"c": c} if cfg.c_dim else {})
    (ws,) = session(mapping_model(weights_of(generator))).run(None, feed)
    expected = generator.mapping(torch.from_numpy(z), torch.from_numpy(c) if cfg.c_dim else None, psi=0.7).numpy()
    assert np.abs(ws - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("form", FORMS)
def test_only_the_operator_form_has_operator_nodes(form: FilterForm) -> None:
    cfg = tiny_config(use_radial_filters=True)
    model = synthesis_model(weights_of(randomized(cfg, 1)), form)
    operators = [node.op_type for node in model.graph.node if node.domain == DOMAIN]
    assert operators == (["FilteredLrelu"] * cfg.num_layers if form == "operator" else [])
    assert [function.name for function in model.functions] == sorted(set(operators))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("radial", [False, True])
def test_float16_is_close_whatever_the_scale_of_the_weights(form: FilterForm, radial: bool) -> None:
    cfg = tiny_config(channel_base=512, channel_max=16, use_radial_filters=radial)
    generator = randomized(cfg, 2)
    for layer in cfg.layers()[:-1]:
        getattr(generator.synthesis, layer.name).weight.mul_(1e4)
    feed = inputs(cfg, 4, 3)
    expected = generator.synthesis(*(torch.from_numpy(feed[name]) for name in ("ws", "transform"))).numpy()
    (image,) = session(synthesis_model(weights_of(generator), form, float16=True)).run(None, feed)
    assert image.dtype == np.float32
    assert not np.array_equal(image, expected)
    error = np.square(image - expected).mean()
    assert 10 * math.log10(float(np.ptp(expected)) ** 2 / error) > 45


def test_a_constant_beyond_float16_is_refused_by_name() -> None:
    cfg = tiny_config()
    weights = weights_of(randomized(cfg, 3))
    weights.arrays["synthesis.L4_16_3.weight"] = weights.arrays["synthesis.L4_16_3.weight"] * 1e6
    with pytest.raises(CheckpointError, match=r"float16 cannot hold L4_16_3\.weight of this network"):
        synthesis_model(weights, float16=True)


@pytest.mark.parametrize("form", FORMS)
def test_the_exported_network_follows_a_translation_as_pytorch_does(form: FilterForm) -> None:
    cfg = tiny_config(resolution=32, channel_base=512, channel_max=12, num_layers=6, margin_size=10)
    network = session(synthesis_model(weights_of(randomized(cfg, 5)), form))
    ws = np.repeat(np.random.default_rng(6).standard_normal((2, 1, cfg.w_dim)).astype(np.float32), cfg.num_ws, 1)
    still, shift = np.tile(np.eye(3, dtype=np.float32), (2, 1, 1)), rigid_transform(0.0, (3 / 32, 0.0)).numpy()
    image, moved = (torch.from_numpy(network.run(None, {"ws": ws, "transform": t})[0]) for t in (still, still @ shift))
    assert equivariance(moved[..., 3:], image[..., :-3], float(image.max() - image.min())) > 80


@pytest.mark.parametrize("form", FORMS)
def test_openvino_computes_the_same_images(form: FilterForm, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    from stylert.runtime.lowering import lower

    cfg = tiny_config(use_radial_filters=True)
    generator = randomized(cfg, 7)
    onnx.save(synthesis_model(weights_of(generator), form), tmp_path / "model.onnx")
    lower(tmp_path / "model.onnx", tmp_path / "lowered.onnx")
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(tmp_path / "lowered.onnx"), "CPU", options)
    for n in (1, 2):
        feed = inputs(cfg, n, 8)
        expected = generator.synthesis(*(torch.from_numpy(feed[name]) for name in ("ws", "transform"))).numpy()
        assert np.abs(compiled(feed)[0] - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="TensorRT-RTX's wheel is for Linux here")
@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_120"])
@pytest.mark.parametrize(
    ("form", "precision"), [("operator", "fp32"), ("operator", "fp16"), ("plain", "fp32"), ("plain", "fp16")]
)
def test_tensorrt_rtx_builds_every_form_in_its_own_type(form: FilterForm, precision: str, target: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    cfg = tiny_config(use_radial_filters=True)
    model = synthesis_model(weights_of(randomized(cfg, 9)), form, float16=precision == "fp16")
    onnx.save(model, tmp_path / "network.onnx")
    options = BuildOptions(target=target, batch=(1, 4, 16))
    facts = tensorrt_rtx.BACKEND.build(tmp_path / "network.onnx", precision, tmp_path / "engine", options, lambda *_: None)
    convolutions = [kernel for kernel in facts["layers"] if kernel["kind"] in ("correlation", "deconv")]
    # torgb's convolution is a product of matrices for the compiler.
    assert len(convolutions) >= 2 * cfg.num_layers
    assert {name for kernel in convolutions for name in kernel["reads"]} == {"Half" if precision == "fp16" else "Float"}
