"""Bundles of StyleGAN3 draw the images of the formulas on every backend that takes them; anything else is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.core.errors import BackendError, InputError
from stylert.core.images.grids import as_uint8
from stylert.export.pipeline import export_bundle
from stylert.export.verify import verify
from stylert.models.checkpoint import read_generator, write_generator
from stylert.models.stylegan3.config import GeneratorConfig
from stylert.models.stylegan3.networks import Generator as Network
from stylert.plugins.onnx_functions import DOMAIN
from stylert.runtime.backends import backend
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.bundle import Bundle
from stylert.runtime.engines import build_engine
from stylert.runtime.generator import Generator
from tests.models.stylegan3.float64_reference import Reference
from tests.models.stylegan3.tiny import TINY, configurations, randomized, rigid_transform, tiny_config

seeds = st.integers(0, 2**31)
WIDE = {"channel_base": 512, "channel_max": 16}
T = tiny_config(**WIDE)
R = GeneratorConfig.configuration_r(**{**TINY, **WIDE, "c_dim": 3})


def checkpoint_of(generator: Network, path: Path) -> Path:
    write_generator(path, generator.cfg, {name: tensor.numpy() for name, tensor in generator.state_dict().items()})
    return path


def float_bundle(generator: Network, folder: Path, *precisions: str) -> Bundle:
    checkpoint = checkpoint_of(generator, folder / "sg3.safetensors")
    return export_bundle(checkpoint, folder / "bundle", precisions or None, output="float", force=True)


def random_ws(cfg: GeneratorConfig, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, cfg.num_ws, cfg.w_dim)).astype(np.float32)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cfg=configurations(), seed=seeds, is_r=st.booleans(), is_turned=st.booleans())
def test_images_of_a_bundle_equal_the_formulas(
    cfg: GeneratorConfig, seed: int, is_r: bool, is_turned: bool, tmp_path: Path
) -> None:
    cfg = replace(cfg, conv_kernel=1, use_radial_filters=True) if is_r else cfg
    generator = randomized(cfg, seed)
    if is_turned:  # the transform of the checkpoint is a constant of the bundle
        generator.synthesis.input.transform.copy_(rigid_transform(0.4, (0.1, -0.2)))
    ws = random_ws(cfg, 3, seed)
    transform = np.tile(generator.synthesis.input.transform.double().numpy(), (3, 1, 1))
    expected = Reference(generator, cfg).synthesis(ws.astype(np.float64), transform)
    with Generator.load(float_bundle(generator, tmp_path, "fp32"), threads=1) as bundle:
        images = bundle.synthesize(ws)
    assert np.abs(images - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("cfg", [T, R], ids=["T", "R"])
@pytest.mark.parametrize("backend_name", ["onnxruntime", "openvino"])
def test_a_backend_draws_the_formulas_in_float32_and_45_db_in_float16(
    cfg: GeneratorConfig, backend_name: str, tmp_path: Path
) -> None:
    if (reason := backend(backend_name).unavailable_reason()) is not None:
        pytest.skip(reason)
    generator = randomized(cfg, 2)
    bundle = float_bundle(generator, tmp_path)
    assert set(bundle.precisions) == {"fp32", "fp16"}
    ws = random_ws(cfg, 16, 3)
    expected = Reference(generator, cfg).synthesis(ws.astype(np.float64))
    for precision in bundle.precisions:
        with Generator.load(bundle, backend_name, precision, threads=1) as loaded:
            images = loaded.synthesize(ws)
        if precision == "fp32":
            assert np.abs(images - expected).max() <= 2e-5 * np.abs(expected).max()
        else:
            ranges = np.ptp(expected, axis=(1, 2, 3))
            psnr = 10 * np.log10(ranges**2 / np.square(images - expected).mean((1, 2, 3)))
            assert psnr.min() > 45
            assert images.std(axis=(1, 2, 3)).min() > 0.01 * ranges.min()  # never flat


@pytest.mark.parametrize("cfg", [T, R], ids=["T", "R"])
def test_seeds_give_the_bytes_of_pytorch_and_verification_passes(cfg: GeneratorConfig, tmp_path: Path) -> None:
    generator = randomized(cfg, 4)
    checkpoint = checkpoint_of(generator, tmp_path / "sg3.safetensors")
    bundle = export_bundle(checkpoint, tmp_path / "bundle", verify_seeds=8)
    for entry in bundle.precisions.values():
        assert entry.accuracy["onnxruntime"]["reference"] == "PyTorch float32"
        assert entry.accuracy["onnxruntime"]["worst_psnr_db"] > entry.min_psnr_db
        assert "mnn" not in entry.accuracy
    assert all(row.passed for row in verify(bundle, checkpoint, ["onnxruntime"], seeds=4))

    import torch

    z = torch.from_numpy(np.concatenate([np.random.RandomState(seed).randn(1, cfg.z_dim) for seed in (5, 6)])).float()
    c = torch.eye(3)[[2, 0]] if cfg.c_dim else None
    expected = as_uint8(generator(z, c, psi=0.7).numpy())
    with Generator.load(bundle, threads=1) as loaded:
        images = loaded([5, 6], psi=0.7, labels=[2, 0] if cfg.c_dim else None)
    assert np.abs(images.astype(int) - expected).max() <= 1
    assert (images != expected).mean() < 0.01


def test_the_files_are_plain_and_the_same_each_time(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(randomized(T, 1), tmp_path / "sg3.safetensors")
    first, second = (export_bundle(checkpoint, tmp_path / name) for name in "ab")
    for name in (*first.files, "bundle.json"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    for precision in first.precisions:
        model = onnx.load(first.path / first.network(precision, "onnxruntime"))
        assert [tensor.name for tensor in model.graph.input] == ["ws"]
        assert not [node for node in model.graph.node if node.domain == DOMAIN]


def test_a_manifest_names_the_network_of_stylegan3_alone(bundle: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    """`bundle` and `checkpoint` are of StyleGAN2, whose manifests are older than the name."""
    assert bundle.model == read_generator(checkpoint).config.to_dict() | {"resample_filter": [1, 3, 3, 1]}
    other = float_bundle(randomized(T, 1), tmp_path)
    assert other.model == {"network": "stylegan3", **dataclasses.asdict(T)}
    manifests = [json.loads((b.path / "bundle.json").read_text()) for b in (bundle, other)]
    assert [set(manifest) for manifest in manifests] == [set(manifests[0])] * 2
    assert [set(manifest["io"]) for manifest in manifests] == [{"num_ws", "noise", "noise_inputs", "output"}] * 2


@pytest.mark.parametrize("precision", ["int8", "fp8", "bf16"])
def test_precisions_without_a_network_are_refused_by_name(precision: str, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(randomized(T, 1), tmp_path / "sg3.safetensors")
    with pytest.raises(InputError, match=f"stylert exports StyleGAN3 in fp32, fp16, not in {precision}"):
        export_bundle(checkpoint, tmp_path / "bundle", ["fp32", precision])
    with pytest.raises(InputError, match="min_psnr needs int8"):
        export_bundle(checkpoint, tmp_path / "bundle", min_psnr=40.0)
    assert not (tmp_path / "bundle").exists()


def test_inputs_that_the_network_lacks_are_refused_by_name(tmp_path: Path) -> None:
    checkpoint = checkpoint_of(randomized(T, 1), tmp_path / "sg3.safetensors")
    with pytest.raises(InputError, match="StyleGAN3 has no noise"):
        export_bundle(checkpoint, tmp_path / "bundle", noise="input")
    with pytest.raises(InputError, match="no style offsets for StyleGAN3"):
        export_bundle(checkpoint, tmp_path / "bundle", style_offsets=True)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", ["mnn", "torch", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
def test_backends_that_were_not_tried_refuse_the_network(name: str, tmp_path: Path) -> None:
    bundle = float_bundle(randomized(T, 1), tmp_path)
    with pytest.raises(BackendError, match=f"backend {name} runs (StyleGAN1, )?StyleGAN2, not StyleGAN3"):
        Generator.load(bundle, name)
    if backend(name).facts.engine_suffix is not None and backend(name).available():
        with pytest.raises(BackendError, match=f"backend {name} runs (StyleGAN1, )?StyleGAN2, not StyleGAN3"):
            build_engine(bundle, name, "fp32", BuildOptions())
    if backend(name).unavailable_reason() is None:
        with pytest.raises(BackendError, match=f"backend {name} runs (StyleGAN1, )?StyleGAN2, not StyleGAN3"):
            verify(bundle, backends=[name], seeds=1)


def test_an_engine_draws_the_images_of_the_file(tmp_path: Path) -> None:
    bundle = float_bundle(randomized(T, 1), tmp_path)
    ws = random_ws(T, 2, 1)
    with Generator.load(bundle) as portable:
        expected = portable.synthesize(ws)
    build_engine(bundle, "onnxruntime", "fp32", BuildOptions())
    with Generator.load(bundle) as built:
        assert built.engine is not None
        assert np.abs(built.synthesize(ws) - expected).max() <= 1e-6 * np.abs(expected).max()


def test_an_image_turns_with_the_transform_of_the_checkpoint(tmp_path: Path) -> None:
    cfg = replace(R, c_dim=0, margin_size=10)
    generator = randomized(cfg, 1)
    ws = random_ws(cfg, 1, 2)
    with Generator.load(float_bundle(generator, tmp_path)) as loaded:
        still = loaded.synthesize(ws)
    generator.synthesis.input.transform.copy_(rigid_transform(math.pi / 2, (0.0, 0.0)))
    with Generator.load(float_bundle(generator, tmp_path)) as loaded:
        turned = loaded.synthesize(ws)
    assert np.abs(turned - np.rot90(still, axes=(2, 3))).max() < 0.02 * np.ptp(still)
