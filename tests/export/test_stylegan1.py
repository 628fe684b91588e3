"""StyleGAN1's ONNX networks equal the formulas in every form, stay bounded in float16, and keep their PSNR in 8 bits."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.core.errors import BackendError, CheckpointError, InputError
from stylert.core.images.grids import as_uint8
from stylert.export.networks.stylegan1 import FLOAT_RECIPES
from stylert.export.pipeline import export_bundle
from stylert.export.quantization.evaluation import cpu_session
from stylert.export.stylegan1 import synthesis_model
from stylert.export.stylegan1_kernels import phase_kernels, round_phases, transposed_kernel
from stylert.export.stylegan1_plan import NetworkPlan, float16_plan
from stylert.export.synthesis_graph import NoiseInput
from stylert.export.verify import verify
from stylert.models.checkpoint import NetworkWeights, Stylegan1Weights, write_generator
from stylert.models.stylegan1.config import GeneratorConfig
from stylert.models.stylegan1.networks import Generator as Network
from stylert.runtime.backends import backend
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.bundle import Bundle
from stylert.runtime.engines import build_engine
from stylert.runtime.generator import Generator
from tests.models.stylegan1.float64_reference import reference
from tests.models.stylegan1.tiny import configurations, randomized, tiny_config

seeds = st.integers(0, 2**31)
plans = st.builds(NetworkPlan, unit_signals=st.booleans(), up_form=st.sampled_from(["transposed", "phases"]))
#: 16 channels, the fewest that run in 8 bits.
WIDE = tiny_config(channel_base=512, channel_max=16)
PRECISIONS = ("fp32", "fp16", "int8")


def weights_of(generator: Network) -> Stylegan1Weights:
    return NetworkWeights(generator.cfg, {name: tensor.numpy() for name, tensor in generator.state_dict().items()}, {})


def checkpoint_of(generator: Network, path: Path) -> Path:
    write_generator(path, generator.cfg, weights_of(generator).arrays)
    return path


def random_ws(cfg: GeneratorConfig, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, cfg.num_ws, cfg.w_dim)).astype(np.float32)


def images_of(weights: Stylegan1Weights, plan: NetworkPlan, ws: np.ndarray, noise: NoiseInput = "const") -> np.ndarray:
    """Float images. Noise inputs get the noise of the checkpoint."""
    session = cpu_session(synthesis_model(weights, plan, noise, "float"))
    feed = {"ws": ws}
    for tensor in session.get_inputs()[1:]:
        _, resolution, layer = tensor.name.split("_")
        plane = weights.arrays[f"synthesis.b{resolution}.{layer}.noise_const"]
        feed[tensor.name] = np.repeat(plane[None, None], len(ws), 0)
    return session.run(["image"], feed)[0]


def psnr(images: np.ndarray, expected: np.ndarray) -> np.ndarray:
    ranges = np.ptp(expected, axis=(1, 2, 3))
    return 10 * np.log10(ranges**2 / np.square(images - expected).mean((1, 2, 3)))


# --- float32 ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(cfg=configurations(), seed=seeds, plan=plans, noise=st.sampled_from(["const", "none", "input"]))
def test_images_equal_the_formulas_in_every_form(cfg: GeneratorConfig, seed: int, plan: NetworkPlan, noise: NoiseInput) -> None:
    generator = randomized(cfg, seed)
    ws = random_ws(cfg, 3, seed)
    expected = reference(generator).synthesis(ws.astype(np.float64), noise != "none")
    images = images_of(weights_of(generator), plan, ws, noise)
    assert images.shape == expected.shape
    assert np.abs(images - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cfg=configurations(), seed=seeds)
def test_a_bundle_maps_and_truncates_as_the_formulas(cfg: GeneratorConfig, seed: int, tmp_path: Path) -> None:
    generator = randomized(cfg, seed)
    bundle = export_bundle(checkpoint_of(generator, tmp_path / "sg1.safetensors"), tmp_path / "b", ["fp32"], force=True)
    z = np.random.default_rng(seed).standard_normal((2, cfg.z_dim))
    labels, c = ([2, 0], np.eye(3)[[2, 0]]) if cfg.c_dim else (None, None)
    expected = np.repeat(reference(generator).mapping(z, c)[:, None], cfg.num_ws, 1)
    w_avg = generator.mapping.w_avg.double().numpy()
    expected[:, :3] = w_avg + 0.6 * (expected[:, :3] - w_avg)
    with Generator.load(bundle, threads=1) as loaded:
        ws = loaded.map(z.astype(np.float32), labels=labels, psi=0.6, cutoff=3)
    np.testing.assert_allclose(ws, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@given(seed=seeds, channels=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_upsampling_kernels_have_the_weights_of_their_form(seed: int, channels: tuple[int, int]) -> None:
    kernel = np.random.default_rng(seed).standard_normal((*channels, 3, 3))
    wide, phases = transposed_kernel(kernel), phase_kernels(kernel)
    np.testing.assert_allclose(wide.sum((2, 3)), 4 * kernel.sum((2, 3)))
    np.testing.assert_allclose(phases.reshape(4, *channels, 4).sum((0, 3)), 4 * kernel.sum((2, 3)))
    # Rounding by phases puts every tap back to its place.
    scale = np.full(channels[0], 0.01)
    rounded = round_phases(lambda k, s, to_format: to_format(k / s[:, None, None, None]), wide, scale, np.rint)
    np.testing.assert_array_equal(rounded, np.rint(wide / 0.01))


# --- float16 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend_name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("factor", [1.0, 1e3, 1e-3])
def test_float16_keeps_45_db_whatever_the_scale_of_weights_styles_and_constants(
    factor: float, backend_name: str, tmp_path: Path
) -> None:
    if (reason := backend(backend_name).unavailable_reason()) is not None:
        pytest.skip(reason)
    generator = randomized(replace(WIDE, bias_before_blur=factor > 1), 2)
    for i, spec in enumerate(WIDE.layers()[:-1]):
        layer = generator.synthesis.layer(spec)
        for tensor in (layer.bias, layer.noise_strength) if i % 2 else (layer.affine.weight, layer.affine.bias):
            tensor.mul_(factor)
    checkpoint = checkpoint_of(generator, tmp_path / "sg1.safetensors")
    bundle = export_bundle(checkpoint, tmp_path / "b", ["fp32", "fp16"], output="float")
    ws = random_ws(WIDE, 16, 3)
    expected = reference(generator).synthesis(ws.astype(np.float64))
    for precision, least in (("fp32", 90), ("fp16", 45)):
        with Generator.load(bundle, backend_name, precision, threads=1) as loaded:
            images = loaded.synthesize(ws)
        assert np.isfinite(images).all()
        assert psnr(images, expected).min() > least


def test_a_flat_channel_gives_no_nan_in_float16() -> None:
    generator = randomized(tiny_config(norm_eps=1e-12), 1)
    layer = generator.synthesis.layer(generator.cfg.layers()[3])
    layer.weight[0] = 0
    layer.noise_strength[0] = 1e-9
    images = images_of(weights_of(generator), float16_plan(), random_ws(generator.cfg, 2, 1))
    assert np.isfinite(images).all()


def test_unit_signals_stay_within_the_bounds_of_their_docstring() -> None:
    generator = randomized(WIDE, 5)
    weights, layers = weights_of(generator), [spec for spec in WIDE.layers() if spec.kind == "conv"]
    names = [spec.name for spec in layers]
    model = synthesis_model(weights, NetworkPlan(unit_signals=True), "const", "float", names)
    for ws in (random_ws(WIDE, 4, 1), 1e4 * random_ws(WIDE, 4, 2)):
        for spec in layers:
            x, y = cpu_session(model).run([f"{spec.name}.in", f"{spec.name}.conv"], {"ws": ws})
            assert np.square(x, dtype=np.float64).mean((1, 2, 3)).max() <= 1 + 1e-4
            pixels, gain = x.shape[2] * x.shape[3], 4 if spec.up == 2 else 1
            assert np.abs(y).max() <= gain * math.sqrt(spec.in_channels * pixels)


def test_a_float16_network_that_cannot_hold_its_noise_is_refused_by_name() -> None:
    weights = weights_of(randomized(tiny_config(), 1))
    weights.arrays["synthesis.b8.conv1.noise_const"][0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"float16 cannot hold b8\.conv1\.noise_const of this network: 1,000,000"):
        synthesis_model(weights, float16_plan())


# --- bundles ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A network with constants like those of a trained one, in all precisions."""
    folder = tmp_path_factory.mktemp("sg1")
    checkpoint = checkpoint_of(Network(WIDE).eval().requires_grad_(False), folder / "sg1.safetensors")
    return export_bundle(checkpoint, folder / "bundle", PRECISIONS, backends=("onnxruntime", "openvino", "tensorrt-rtx"))


def test_every_precision_keeps_its_psnr(bundle: Bundle) -> None:
    rows = verify(bundle, bundle.path.parent / "sg1.safetensors", ["onnxruntime"], seeds=16)
    assert {row.precision for row in rows} == {"fp32", "fp16", "int8"}
    assert all(row.passed for row in rows)


def test_seeds_give_the_bytes_of_pytorch(bundle: Bundle) -> None:
    import torch

    from stylert.models.checkpoint import load_generator

    network = load_generator(bundle.path.parent / "sg1.safetensors")
    z = torch.from_numpy(np.concatenate([np.random.RandomState(seed).randn(1, WIDE.z_dim) for seed in (5, 6)])).float()
    expected = as_uint8(network(z, psi=0.7, cutoff=4).numpy())
    with Generator.load(bundle, threads=1) as loaded:
        images = loaded([5, 6], psi=0.7, cutoff=4)
    assert np.abs(images.astype(int) - expected).max() <= 1
    assert (images != expected).mean() < 0.01


def test_int8_files_quantize_the_layers_of_their_recipe_and_no_others(bundle: Bundle) -> None:
    recipe = bundle.precision("int8").recipe
    for name, file in {"": bundle.precision("int8").file, **bundle.precision("int8").plans}.items():
        layers = recipe["layers"] if name == "" else recipe["backends"][name]["layers"]
        reasons = recipe["higher_precision"] if name == "" else recipe["backends"][name]["higher_precision"]
        model = onnx.load(bundle.path / file)
        weights = {t.name.removesuffix(".weight_q") for t in model.graph.initializer if t.name.endswith(".weight_q")}
        assert weights == set(layers)
        assert set(layers) | set(reasons) == {spec.name for spec in WIDE.layers() if spec.kind == "conv"}
        assert "too small: 16 to 16 channels at 4 px" in reasons["b4.conv1"]


def test_the_files_are_plain_and_the_same_each_time(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(randomized(WIDE, 1), tmp_path / "sg1.safetensors")
    first, second = (export_bundle(checkpoint, tmp_path / name, ["fp32", "fp16"]) for name in "ab")
    for name in (*first.files, "bundle.json"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    assert first.model["network"] == "stylegan1"
    for precision in FLOAT_RECIPES:
        model = onnx.load(first.path / first.network(precision, "onnxruntime"))
        assert [tensor.name for tensor in model.graph.input] == ["ws"]
        assert {node.domain for node in model.graph.node} == {""}


def test_noise_inputs_make_other_images_and_their_absence_none(tmp_path: Path) -> None:
    generator = randomized(WIDE, 1)
    checkpoint = checkpoint_of(generator, tmp_path / "sg1.safetensors")
    bundle = export_bundle(checkpoint, tmp_path / "input", ["fp32"], noise="input")
    assert bundle.noise_inputs["noise_4_input"] == 4
    assert bundle.noise_inputs["noise_16_conv1"] == 16
    assert all(row.passed for row in verify(bundle, checkpoint, ["onnxruntime"], seeds=4))
    without = export_bundle(checkpoint, tmp_path / "none", ["fp32"], noise="none")
    assert all(row.passed for row in verify(without, checkpoint, ["onnxruntime"], seeds=4))


@pytest.mark.parametrize("precision", ["fp8", "bf16"])
def test_what_the_network_lacks_is_refused_by_name(precision: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(randomized(WIDE, 1), tmp_path / "sg1.safetensors")
    with pytest.raises(InputError, match=f"stylert exports StyleGAN1 in fp32, fp16, int8, not in {precision}"):
        export_bundle(checkpoint, tmp_path / "bundle", ["fp32", precision])
    with pytest.raises(InputError, match="no style offsets for StyleGAN1"):
        export_bundle(checkpoint, tmp_path / "bundle", style_offsets=True)
    assert not (tmp_path / "bundle").exists()


# --- backends --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnn", "torch", "onnxruntime-cuda", "tensorrt"])
def test_backends_that_were_not_tried_refuse_the_network(name: str, bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=f"backend {name} runs StyleGAN2, not StyleGAN1"):
        Generator.load(bundle, name)


@pytest.mark.parametrize("target", ["sm_80", "sm_89", "sm_120"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_rtx_builds_engines_with_half_and_8_bit_convolutions(precision: str, target: str, bundle: Bundle) -> None:
    pytest.importorskip("tensorrt_rtx")
    facts: dict[str, Any] = build_engine(bundle, "tensorrt-rtx", precision, BuildOptions(target=target, batch=(1, 2, 9)))
    convolutions = [layer for layer in facts["layers"] if layer["kind"] == "correlation"]
    in_8_bits = [layer for layer in convolutions if layer["reads"] == ["Int8"]]
    recipe = bundle.precision("int8").recipe["backends"]["tensorrt-rtx"]
    assert len(in_8_bits) == (len(recipe["layers"]) if precision == "int8" else 0)
    assert any(["Float" if precision == "fp32" else "Half"] == layer["reads"] for layer in convolutions)
    assert any(written == "UInt8[-1,16,16,3]" for layer in facts["layers"] for written in layer["writes"])
