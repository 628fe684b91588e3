"""StyleGAN2 of other shapes: images of any height and width that the constant and the doublings give.

The reference is a whole synthesis network in NumPy and SciPy, float64, written from the papers alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d

from stylert.export.default_plans import backend_plan, canonical_plan
from stylert.export.network_plan import LayerPlan, conv_layers, float32_plan
from stylert.export.pipeline import export_bundle
from stylert.export.quantization.calibration import calibrate
from stylert.export.synthesis import noise_name, synthesis_model
from stylert.models.checkpoint import GeneratorWeights, read_generator, write_generator
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig, network_size
from stylert.models.stylegan2.networks import Discriminator
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from tests.export.networks import random_network, random_weights, random_ws, run

#: Constants of height and width: wide, odd, high, and a square of another side than 4.
CONSTS = [(4, 8), (3, 5), (7, 4), (3, 3)]


def filtered(x: np.ndarray, f: np.ndarray) -> np.ndarray:
    """The full convolution of each plane with a filter."""
    return np.stack([correlate2d(plane, f[::-1, ::-1], "full") for plane in x])


def doubled(x: np.ndarray, f: np.ndarray) -> np.ndarray:
    """2x upsampling: zeros between the pixels, and the filter with the gain of the zeros."""
    c, h, w = x.shape
    wide = np.zeros((c, 2 * h, 2 * w))
    wide[:, ::2, ::2] = x
    return filtered(wide, 4 * f)[:, 1 : 1 + 2 * h, 1 : 1 + 2 * w]


def convolved(x: np.ndarray, weight: np.ndarray, up: int, f: np.ndarray) -> np.ndarray:
    """A 3x3 or 1x1 convolution of the size of its input, or with `up` the transposed one with stride 2 and the filter."""
    c, h, w = x.shape
    if up == 1:
        pad = weight.shape[2] // 2
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        return np.stack([sum(correlate2d(padded[i], k[i], "valid") for i in range(c)) for k in weight])
    spread = np.zeros((len(weight), 2 * h + 1, 2 * w + 1))
    for y in range(3):
        for z in range(3):
            spread[:, y : y + 2 * h : 2, z : z + 2 * w : 2] += np.tensordot(weight[:, :, y, z], x, 1)
    return filtered(spread, 4 * f)[:, 2 : 2 + 2 * h, 2 : 2 + 2 * w]


def synthesized(weights: GeneratorWeights, ws: np.ndarray, noise: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """The images `[N, C, H, W]` of latents, by Karras et al. 2020a."""
    cfg = weights.config
    a = {name.removeprefix("synthesis."): array.astype(np.float64) for name, array in weights.arrays.items()}
    f = np.outer(cfg.resample_filter, cfg.resample_filter) / sum(cfg.resample_filter) ** 2
    images = []
    for n, latents in enumerate(ws.astype(np.float64)):
        x, image = a["b4.const"], None
        for spec in cfg.layers():
            style = (
                a[f"{spec.name}.affine.weight"] @ latents[spec.ws_index] / np.sqrt(cfg.w_dim) + a[f"{spec.name}.affine.bias"]
            )
            weight, bias = a[f"{spec.name}.weight"], a[f"{spec.name}.bias"][:, None, None]
            if spec.kind == "torgb":
                weight = weight * (style / np.sqrt(spec.in_channels))[None, :, None, None]
                rgb = convolved(x, weight, 1, f) + bias
                image = rgb if image is None else doubled(image, f) + rgb
                continue
            weight = weight * style[None, :, None, None]
            weight = weight / np.sqrt(np.square(weight).sum((1, 2, 3), keepdims=True) + 1e-8)
            own = a[f"{spec.name}.noise_const"] if noise is None else noise[noise_name(spec)][n, 0]
            x = convolved(x, weight, spec.up, f) + own * a[f"{spec.name}.noise_strength"] + bias
            x = np.where(x < 0, 0.2 * x, x) * np.sqrt(2)
        images.append(image)
    return np.stack(images)


def relative_error(images: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(images - reference).max() / np.abs(reference).max())


def psnr_db(images: np.ndarray, reference: np.ndarray) -> float:
    return float(10 * np.log10(4 / np.square(np.clip(images, -1, 1) - np.clip(reference, -1, 1)).mean()))


@settings(max_examples=12)
@given(
    const=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    resolution=st.sampled_from([4, 8, 16]),
    channels=st.integers(1, 8),
    n=st.integers(1, 2),
)
def test_networks_of_any_shape_are_those_of_the_paper(const: tuple[int, int], resolution: int, channels: int, n: int) -> None:
    shape = {"const_height": const[0], "const_width": const[1], "resolution": resolution, "img_channels": channels}
    weights, generator = random_network(**shape, channel_base=64, channel_max=8)
    ws = random_ws(weights, n)
    reference = synthesized(weights, ws)
    assert reference.shape == (n, channels, const[0] * resolution // 4, const[1] * resolution // 4)
    with torch.no_grad():
        assert relative_error(generator.float().synthesis(torch.from_numpy(ws), "const").numpy(), reference) < 1e-5
    for output in ("float", "uint8"):
        images = run(synthesis_model(weights, "const", output), ws=ws)
        if output == "float":
            assert relative_error(images, reference) < 1e-5
        else:
            expected = np.clip(np.floor(reference * 127.5 + 128), 0, 255).transpose(0, 2, 3, 1)
            assert images.shape == expected.shape
            assert (np.abs(images - expected) <= 1).all()


UP_FORMS = ["transposed", "polyphase", "phases", "separate_phases"]


@pytest.mark.parametrize("const", CONSTS)
@pytest.mark.parametrize(
    ("form", "rgb_form"),
    [
        ("operator", "matmul"),
        ("transposed", "conv"),
        ("polyphase", "matmul_nhwc"),
        ("phases", "conv"),
        ("separate_phases", "matmul"),
        ("winograd_2x2", "matmul_nhwc"),
        ("winograd_4x4", "matmul"),
    ],
)
def test_every_graph_form_takes_every_shape(const: tuple[int, int], form: str, rgb_form: str) -> None:
    weights = random_weights(const_height=const[0], const_width=const[1], resolution=16)
    cfg = weights.config
    ws = random_ws(weights, 2)
    plan = float32_plan(cfg, "transposed", rgb_form)
    forms = {s.name: LayerPlan(form) for s in conv_layers(cfg) if s.up == 2 or form not in UP_FORMS}
    plan = replace(plan, layers={**plan.layers, **forms})
    model = synthesis_model(weights, "const", "float", plan)
    assert relative_error(run(model, ws=ws), synthesized(weights, ws)) < 1e-5


@pytest.mark.parametrize("const", CONSTS)
def test_noise_inputs_have_the_sizes_of_their_layers(const: tuple[int, int], tmp_path: Path, rng: np.random.Generator) -> None:
    weights = random_weights(const_height=const[0], const_width=const[1], resolution=16)
    write_generator(tmp_path / "a.safetensors", weights.config, weights.arrays)
    bundle = export_bundle(tmp_path / "a.safetensors", tmp_path / "b", ["fp32"], noise="input", output="float")
    ws = random_ws(weights, 2)
    noise = {name: rng.standard_normal((2, 1, *size)).astype(np.float32) for name, size in bundle.noise_sizes.items()}
    for backend in ("onnxruntime", "openvino"):
        with Generator.load(bundle, backend) as generator:
            assert relative_error(generator.synthesize(ws, noise), synthesized(weights, ws, noise)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("const", "precisions"), [((4, 8), ["fp32", "fp16"]), ((3, 5), ["fp32", "int8"])])
def test_bundles_keep_what_each_precision_promises(const: tuple[int, int], precisions: list[str], tmp_path: Path) -> None:
    weights = random_weights(const_height=const[0], const_width=const[1], resolution=16, channel_base=256, channel_max=16)
    write_generator(tmp_path / "a.safetensors", weights.config, weights.arrays)
    assert read_generator(tmp_path / "a.safetensors").config == weights.config
    # A precision that misses its PSNR on one of the backends would raise: 45 dB in fp16, 33 dB in int8.
    bundle = export_bundle(tmp_path / "a.safetensors", tmp_path / "b", precisions, output="float", verify_seeds=4)
    assert set(bundle.precisions) == set(precisions)
    for entry in bundle.precisions.values():
        assert {"onnxruntime", "openvino"} <= set(entry.accuracy)
    assert (bundle.height, bundle.width) == (const[0] * 4, const[1] * 4)
    assert Bundle.load(tmp_path / "b").synthesis_tensors[-1].shape == (3, const[0] * 4, const[1] * 4)
    ws = random_ws(weights, 2)
    reference = synthesized(weights, ws)
    for backend in ("onnxruntime", "openvino"):
        with Generator.load(bundle, backend) as generator:
            assert relative_error(generator.synthesize(ws), reference) < 1e-5


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("backend", ["", "onnxruntime", "openvino", "mnn", "tensorrt-rtx"])
def test_every_default_plan_states_shapes_that_onnx_accepts(precision: str, backend: str) -> None:
    weights = random_weights(const_height=3, const_width=5, resolution=32, channel_base=1024, channel_max=32)
    calibration = calibrate(weights, [random_ws(weights, 2)], None) if precision == "int8" else None
    plan = (
        backend_plan(weights, precision, backend, calibration) if backend else canonical_plan(weights, precision, calibration)
    )
    if plan is None:
        return
    model = synthesis_model(weights, "const", "float", plan)
    onnx.checker.check_model(model, full_check=True)
    ws = random_ws(weights, 2)
    reference = synthesized(weights, ws)
    scale = np.abs(reference).max()
    assert psnr_db(run(model, ws=ws) / scale, reference / scale) > 15


@pytest.mark.parametrize("const", CONSTS)
def test_a_discriminator_judges_images_of_its_shape_alone(const: tuple[int, int]) -> None:
    cfg = DiscriminatorConfig(16, channel_base=64, channel_max=8, const_height=const[0], const_width=const[1])
    net = Discriminator(cfg)
    assert net(torch.randn(4, 3, cfg.height, cfg.width)).shape == (4, 1)
    with pytest.raises(ValueError, match="the discriminator takes"):
        net(torch.randn(4, 3, cfg.width + 1, cfg.height))


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_the_network_of_a_size_has_that_size_or_the_message_names_one_that_has(height: int, width: int) -> None:
    try:
        resolution, const_height, const_width = network_size(height, width)
    except ValueError as e:
        near = str(e).split("such as ")[1].split("x")
        network_size(int(near[1]), int(near[0]))
        return
    cfg = GeneratorConfig(resolution, const_height=const_height, const_width=const_width)
    assert (cfg.height, cfg.width) == (height, width)


@pytest.mark.parametrize("side", [4, 8, 64, 1024])
def test_usual_squares_are_as_they_were(side: int) -> None:
    assert network_size(side, side) == (side, 4, 4)
    assert not {"const_height", "const_width", "image_channels"} & set(GeneratorConfig(side).to_dict())


@pytest.mark.parametrize(
    "change", [{"const_height": 0}, {"const_width": 65}, {"const_height": 8, "resolution": 4096}, {"const_width": "8"}]
)
def test_shapes_beyond_the_limits_are_refused(change: dict) -> None:
    with pytest.raises(ValueError, match=r"const_|larger than|resolution"):
        GeneratorConfig.from_dict({"resolution": 64, **change})


def test_a_square_bundle_says_nothing_of_shapes(tmp_path: Path) -> None:
    weights = random_weights(resolution=8)
    write_generator(tmp_path / "a.safetensors", weights.config, weights.arrays)
    export_bundle(tmp_path / "a.safetensors", tmp_path / "b", ["fp32"])
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text(encoding="utf-8"))
    assert not {"const_height", "const_width", "image_channels"} & set(manifest["model"])
    assert "channels" not in manifest


#: The structure of the graphs of examples/cats64.safetensors: nodes with names, attributes and tensors, and shapes of weights.
#: A new form of a graph changes them on purpose; a network of other shapes must not.
GRAPHS = {
    "fp32": "c0aa49eb2c199bd4",
    "fp32 openvino": "119a9b6b364bc326",
    "fp32 mnn": "4fdedb002082cd16",
    "fp16": "8aa74fd1f862ce2d",
    "fp16 tensorrt-rtx": "ecd5d3538644970d",
}


def structure(model: onnx.ModelProto) -> str:
    """The sha256 of all of a graph but the values of its weights."""
    graph = model.graph
    lines = [f"{n.domain} {n.op_type} {n.name} {list(n.input)} {list(n.output)}" for n in graph.node]
    lines += [f"{n.name} {a.name} {onnx.helper.get_attribute_value(a)}" for n in graph.node for a in n.attribute if a.type != 4]
    lines += [f"{w.name} {w.data_type} {list(w.dims)}" for w in graph.initializer]
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        lines.append(f"{value.name} {value.type.tensor_type.elem_type} {dims}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graphs_of_the_shipped_square_network_stay_as_they_were(name: str) -> None:
    weights = read_generator(Path(__file__).parents[2] / "examples" / "cats64.safetensors")
    precision, _, backend = name.partition(" ")
    plan = backend_plan(weights, precision, backend, None) if backend else canonical_plan(weights, precision, None)
    assert structure(synthesis_model(weights, plan=plan)) == GRAPHS[name]
