"""Imported networks compute what the networks of the file compute, for every layout and every option of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stylert.core.errors import CheckpointError, InputError, OutputError
from stylert.export.pipeline import export_bundle
from stylert.export.verify import verify
from stylert.models.checkpoint import load_generator, read_generator, write_generator
from stylert.models.importers.import_checkpoint import import_checkpoint, read_any_generator, write_imported
from stylert.models.stylegan2.networks import Discriminator, Generator
from stylert.train.imported_start import imported_run_config, write_first_snapshot
from stylert.train.loop import Trainer
from stylert.train.snapshots.snapshot_file import read_config, read_snapshot
from stylert.train.snapshots.trainer_state import restore_state
from tests.draws import fresh

few_examples = settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
seeds = st.integers(0, 2**31)
sizes = st.sampled_from([4, 8, 16])
channel_plans = st.tuples(st.integers(32, 90), st.integers(2, 9))  # channel_base and channel_max
architectures = st.sampled_from(["skip", "resnet", "orig"])


def load(module: torch.nn.Module, arrays: dict[str, np.ndarray]) -> Any:
    module.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
    return module.eval().requires_grad_(False)


def assert_same_images(imported: Any, original: Any, paper: Any, rng: np.random.Generator) -> None:
    """Compare images of the imported network in float32 with the formulas on the original's weights in float64."""
    cfg = imported.config
    z, c = rng.normal(size=(3, cfg.z_dim)), np.eye(cfg.c_dim)[rng.integers(0, cfg.c_dim, 3)] if cfg.c_dim else None
    exact = paper(original)
    w = exact.mapping(z, c)
    net = load(Generator(cfg), imported.arrays)
    ws = net.mapping(torch.from_numpy(z), None if c is None else torch.from_numpy(c))[:, 0].numpy()
    assert np.abs(ws - w).max() <= 1e-5 * np.abs(w).max()
    for noise in ("const", "none"):
        expected = exact.synthesis(np.repeat(w[:, None], cfg.num_ws, 1), cfg.resolution, noise == "const")
        image = net.synthesis(torch.from_numpy(np.repeat(w[:, None], cfg.num_ws, 1)), noise).numpy()
        assert np.abs(image - expected).max() <= 1e-5 * np.abs(expected).max()


def assert_same_logits(imported: Any, original: Any, paper: Any, rng: np.random.Generator) -> None:
    """The same for the discriminator."""
    cfg = imported.discriminator_config
    image = rng.normal(size=(4, cfg.img_channels, cfg.resolution, cfg.resolution))
    c = np.eye(cfg.c_dim)[rng.integers(0, cfg.c_dim, 4)] if cfg.c_dim else None
    expected = paper(original).discriminator(image, c, cfg.architecture, cfg.mbstd_group_size or 4)
    net = load(Discriminator(cfg), imported.discriminator)
    logits = net(torch.from_numpy(image).float(), None if c is None else torch.from_numpy(c)).numpy()
    assert np.abs(logits - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1)


@few_examples
@given(
    seed=seeds,
    resolution=sizes,
    plan=channel_plans,
    labels=st.integers(0, 3),
    architecture=architectures,
    d_architecture=architectures,
    layers=st.integers(1, 4),
    channels=st.integers(1, 4),
    halves=st.integers(0, 3),
    clamp=st.sampled_from([None, 256.0, 1000]),
    lr=st.sampled_from([0.01, 0.1, 0.003]),
    noise=st.booleans(),
    frozen=st.booleans(),
    group=st.sampled_from([None, 1, 2, 4]),
)
def test_official_networks_equal_the_reference(
    nets, foreign, paper, tmp_path, seed, resolution, plan, labels, architecture, d_architecture, layers, channels, halves, clamp, lr,
    noise, frozen, group,
):  # fmt: skip
    torch.manual_seed(seed)
    shared = {"num_fp16_res": halves, "conv_clamp": clamp}
    d = {"architecture": d_architecture, "mbstd_group_size": group, **shared}
    sizes_of_g = {"resolution": resolution, "channel_base": plan[0], "channel_max": plan[1], "c_dim": labels}
    g, raw, d_net = nets(d, **sizes_of_g, architecture=architecture, mapping_layers=layers, img_channels=channels, **shared)
    if not noise:
        for net in (g, raw):
            for name, p in net.synthesis.state_dict().items():
                p.zero_() if "noise_" in name else None
    # One repository nests the arguments of the synthesis network, the other lays them flat.
    arguments = {"channel_base": plan[0], "channel_max": plan[1]}
    kwargs = {"synthesis_kwargs": arguments} if seed % 2 else arguments
    path = foreign.official_file(tmp_path / "x.pkl", g, raw, d_net, lr=lr, noise=noise, frozen=frozen, kwargs=kwargs)
    imported = import_checkpoint(path)
    assert {n: imported.config.channels(n) for n in g.cfg.block_resolutions} == {
        n: g.cfg.channels(n) for n in g.cfg.block_resolutions
    }
    assert (imported.config.conv_clamp, imported.config.architecture) == (clamp, architecture)
    assert [imported.config.is_fp16(r) for r in g.cfg.block_resolutions] == [g.cfg.is_fp16(r) for r in g.cfg.block_resolutions]
    rng = np.random.default_rng(seed)
    assert_same_images(imported, g, paper, rng)
    assert_same_logits(imported, d_net, paper, rng)
    np.testing.assert_array_equal(imported.arrays["mapping.w_avg"], g.mapping.w_avg)
    np.testing.assert_array_equal(imported.raw["synthesis.b4.conv1.weight"], raw.synthesis.b4.conv1.weight.detach())
    assert any("ADA p = 0.250" in note for note in imported.notes)


@few_examples
@given(seed=seeds, resolution=sizes, plan=channel_plans, layers=st.integers(1, 4), legacy=st.booleans(), average=st.booleans())
def test_rosinality_networks_equal_the_reference(
    nets, foreign, paper, tmp_path, seed, resolution, plan, layers, legacy, average
):
    torch.manual_seed(seed)
    d = {"mbstd_group_size": 4}
    g, raw, d_net = nets(d, resolution=resolution, z_dim=7, mapping_layers=layers, channel_base=plan[0], channel_max=plan[1])
    extra = {"g_optim": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}, "ada_aug_p": 0.5}
    imported = import_checkpoint(
        foreign.rosinality_file(tmp_path / "x.pt", g, raw, d_net, legacy=legacy, average=average, extra=extra)
    )
    rng = np.random.default_rng(seed)
    assert_same_images(imported, g, paper, rng)
    assert_same_logits(imported, d_net, paper, rng)
    np.testing.assert_array_equal(imported.raw["synthesis.b4.const"], raw.synthesis.b4.const.detach())
    assert any("dropped the entry g_optim" in note for note in imported.notes)
    if average:
        np.testing.assert_array_equal(imported.arrays["mapping.w_avg"], g.mapping.w_avg)
    else:
        w = g.mapping(torch.randn(40000, 7))[:, 0].detach()
        error = np.abs(imported.arrays["mapping.w_avg"] - w.mean(0).numpy())
        assert (error <= 6 * w.std(0).numpy() / 4096**0.5 + 1e-6).all(), "within the error of a mean over 4096"


@few_examples
@given(
    seed=seeds, resolution=sizes, plan=st.tuples(st.integers(16, 45), st.integers(2, 9)), layers=st.integers(1, 4),
    labels=st.integers(0, 3), architecture=architectures, d_architecture=architectures,
)  # fmt: skip
def test_tensorflow_networks_equal_the_reference(
    nets, foreign, paper, tmp_path, seed, resolution, plan, layers, labels, architecture, d_architecture
):
    torch.manual_seed(seed)
    sizes_of_g = {"resolution": resolution, "channel_base": 2 * plan[0], "channel_max": plan[1], "c_dim": labels}
    g, raw, d_net = nets({"architecture": d_architecture}, **sizes_of_g, mapping_layers=layers, architecture=architecture)
    imported = import_checkpoint(foreign.tensorflow_file(tmp_path / "x.pkl", g, raw, d_net))
    assert imported.config == g.cfg
    rng = np.random.default_rng(seed)
    assert_same_images(imported, g, paper, rng)
    assert_same_logits(imported, d_net, paper, rng)
    np.testing.assert_array_equal(imported.raw["synthesis.b4.const"], raw.synthesis.b4.const.detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_stored_types_widen_to_float32(nets, foreign, tmp_path, dtype):
    g, _, _ = nets(z_dim=7)
    state = {k: v.to(dtype) for k, v in foreign.rosinality_generator(g.state_dict()).items()}
    torch.save({"g_ema": state}, tmp_path / "x.pt")
    arrays = import_checkpoint(tmp_path / "x.pt").arrays
    expected = g.synthesis.b8.conv0.weight.detach().to(dtype).float()
    np.testing.assert_array_equal(arrays["synthesis.b8.conv0.weight"], expected)


def test_strides_and_shared_storages_are_read_correctly(nets, foreign, tmp_path):
    """One weight is stored channels-last, and all tensors share one storage."""
    g, _, _ = nets(z_dim=7)
    state = foreign.rosinality_generator(g.state_dict())
    whole = torch.cat([v.flatten() for v in state.values()])
    at = 0
    for k, v in state.items():
        state[k] = whole[at : at + v.numel()].view(v.shape)
        at += v.numel()
    state["convs.1.conv.weight"] = state["convs.1.conv.weight"].permute(0, 3, 4, 1, 2).contiguous().permute(0, 3, 4, 1, 2)
    torch.save({"g_ema": state}, tmp_path / "x.pt")
    arrays = import_checkpoint(tmp_path / "x.pt").arrays
    np.testing.assert_array_equal(arrays["synthesis.b8.conv1.weight"], g.synthesis.b8.conv1.weight.detach())
    np.testing.assert_array_equal(arrays["synthesis.b8.torgb.bias"], g.synthesis.b8.torgb.bias.detach())


def test_a_bare_state_dict_and_one_of_data_parallel_are_read(nets, foreign, tmp_path):
    g, _, _ = nets(z_dim=7)
    state = {f"module.{k}": v for k, v in foreign.rosinality_generator(g.state_dict()).items()}
    for data in ({"g": state}, {k.removeprefix("module."): v for k, v in state.items()}):
        torch.save(data, tmp_path / "x.pt")
        imported = import_checkpoint(tmp_path / "x.pt")
        np.testing.assert_array_equal(imported.arrays["synthesis.b4.const"], g.synthesis.b4.const.detach())
        assert any("used as g_ema" in note for note in imported.notes)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_generator_alone_in_a_file_is_read_as_the_averaged_one(nets, foreign, paper, tmp_path, rng, protocol):
    """Tools that adapt a trained generator leave such files."""
    g, _, _ = nets(c_dim=2)
    path = tmp_path / "x.pkl"
    path.write_bytes(foreign.PickleWriter(protocol).dumps(foreign.official_record(g, g.cfg)))
    imported = import_checkpoint(path)
    assert_same_images(imported, g, paper, rng)
    assert any("single generator: used as G_ema" in note for note in imported.notes)
    assert imported.raw is None
    assert imported.discriminator is None


def test_tensorflow_arguments_that_repeat_the_resolution_change_nothing(nets, foreign, tmp_path):
    g, raw, d = nets()
    plain = import_checkpoint(foreign.tensorflow_file(tmp_path / "a.pkl", g, raw, d))
    sides = {"resolution_w": 8, "resolution_h": 8}
    repeated = import_checkpoint(foreign.tensorflow_file(tmp_path / "b.pkl", g, raw, d, arguments=sides))
    assert repeated.config == plain.config
    for name, array in plain.arrays.items():
        np.testing.assert_array_equal(repeated.arrays[name], array)


def test_an_unsupported_discriminator_is_dropped_and_the_generator_is_imported(nets, foreign, tmp_path):
    g, raw, d = nets(c_dim=2)
    path = tmp_path / "x.pkl"
    data = foreign.tensorflow_discriminator(foreign.numpy_state(d), foreign.tensorflow_arguments(d.cfg))
    arguments = foreign.tensorflow_arguments(g.cfg)
    generators = [foreign.tensorflow_generator(foreign.numpy_state(n), arguments) for n in (raw, g)]
    path.write_bytes(foreign.PickleWriter(3).dumps((generators[0], data, generators[1])))
    imported = import_checkpoint(path)
    assert imported.discriminator is None
    assert any(note.startswith("dropped D: its labels go in without mapping") for note in imported.notes)
    with pytest.raises(CheckpointError, match=r"no D to train.*labels go in"):
        imported_run_config(tmp_path / "run", imported)


def test_our_own_file_passes_through_unchanged(nets, tmp_path):
    g, _, _ = nets()
    arrays = {k: v.numpy() for k, v in g.state_dict().items()}
    write_generator(tmp_path / "a.safetensors", g.cfg, arrays, info={"kimg": 3})
    write_imported(tmp_path / "b.safetensors", import_checkpoint(tmp_path / "a.safetensors"))
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "a.safetensors").read_bytes()


@pytest.mark.parametrize("architecture", ["skip", "orig", "resnet"])
def test_an_imported_file_exports_and_runs(nets, foreign, tmp_path, architecture):
    g, _, _ = nets(resolution=16, architecture=architecture)
    path = foreign.official_file(tmp_path / "x.pkl", g)
    write_imported(tmp_path / "m.safetensors", import_checkpoint(path))
    assert read_generator(tmp_path / "m.safetensors").info["imported"]["format"].startswith("stylegan2-ada-pytorch")
    assert read_any_generator(path).arrays.keys() == read_generator(tmp_path / "m.safetensors").arrays.keys()
    export_bundle(tmp_path / "m.safetensors", tmp_path / "bundle", ["fp32"], output="float")
    z = fresh().standard_normal((2, 5)).astype(np.float32)
    with torch.no_grad():
        expected = load_generator(tmp_path / "m.safetensors")(torch.from_numpy(z)).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "mapping.onnx", providers=["CPUExecutionProvider"])
    ws = session.run(None, {"z": z, "psi": np.ones((2, g.cfg.num_ws), np.float32)})[0]
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "synthesis.fp32.onnx", providers=["CPUExecutionProvider"])
    image = session.run(None, {"ws": ws})[0]
    np.testing.assert_allclose(image, expected, atol=1e-4 * np.abs(expected).max())


def test_export_and_verification_read_a_foreign_file_directly(nets, foreign, tmp_path):
    g, _, _ = nets(resolution=16)
    path = foreign.official_file(tmp_path / "x.pkl", g)
    bundle = export_bundle(path, tmp_path / "bundle", ["fp32"])
    assert bundle.provenance["checkpoint"] == "x.pkl"
    assert all(row.passed for row in verify(bundle, against=path, backends=["onnxruntime"], seeds=3))


def test_training_goes_on_from_an_imported_file(nets, foreign, tmp_path):
    g, raw, d = nets(resolution=8)
    imported = import_checkpoint(foreign.official_file(tmp_path / "x.pkl", g, raw, d))
    plan = imported_run_config(tmp_path / "run", imported, "cpu", batch=4)
    path = write_first_snapshot(tmp_path / "run", imported, plan)
    images = fresh().integers(0, 256, (8, 3, 8, 8), np.uint8)
    order = lambda nimg, batch, seed: np.arange(nimg, nimg + batch) % 8  # noqa: E731
    dataset: Any = SimpleNamespace(images=images, image_channels=None, c_dim=0, labels=None, batch_indices=order)
    cfg = read_config(path)
    trainer = Trainer(cfg, dataset)
    restore_state(trainer, *read_snapshot(path, cfg))
    for ours, theirs in ((trainer.G, raw), (trainer.D, d), (trainer.G_ema, g)):
        for name, tensor in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)
    assert all(np.isfinite(v) for v in trainer.train_step().values())
    with pytest.raises(OutputError, match="already holds a run"):
        imported_run_config(tmp_path / "run", imported)
    with pytest.raises(InputError, match="unknown preset"):
        imported_run_config(tmp_path / "other", imported, "fast")
    with pytest.raises(CheckpointError, match="no G to train"):
        imported_run_config(tmp_path / "other", import_checkpoint(foreign.official_file(tmp_path / "y.pkl", g)))
