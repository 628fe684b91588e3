"""Transfer copies the tensors that match, and a grown generator makes the same images at twice the size."""

import numpy as np
import pytest
import torch

from stylert.core.errors import CheckpointError
from stylert.models.stylegan2.networks import Discriminator, Generator
from stylert.plugins.reference.upfirdn2d import setup_filter, upsample2d
from stylert.train.configuration.presets import FROM_TRAINED_NETWORKS, resolve
from stylert.train.data.dataset import ImageDataset
from stylert.train.snapshots.run_folder import save
from stylert.train.trainer import Trainer
from stylert.train.transfer import transfer
from tests.models.importers.official_files import official_file


def run(rng, write_dataset, resolution, seed=0, **changes):
    files = {f"{i}.png": rng.integers(0, 256, (resolution, resolution, 3), np.uint8) for i in range(8)}
    options = {"channel_base": 64, "channel_max": 16, "half": "none", "num_fp16_res": 0, "batch": 4} | changes
    return Trainer(resolve("cpu", resolution, seed=seed, **options), ImageDataset(write_dataset(files, name=str(resolution))))


@pytest.fixture
def small(rng, write_dataset, tmp_path):
    """A run at 8 px that has made two steps, saved."""
    trainer = run(rng, write_dataset, 8)
    for _ in range(2):
        trainer.train_step()
    save(trainer, tmp_path)
    return trainer, tmp_path


def images(generator):
    z = torch.randn(3, generator.cfg.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return generator(z)


@pytest.mark.parametrize("source", ["snapshot.safetensors", "model.safetensors"])
def test_a_grown_generator_makes_the_images_of_the_smaller_one_upsampled(small, rng, write_dataset, source):
    trainer, folder = small
    grown = run(rng, write_dataset, 16, seed=1)
    results = {r.network: r for r in transfer(grown, folder / source)}
    expected = upsample2d(images(trainer.G_ema), setup_filter())
    assert images(grown.G_ema) == pytest.approx(expected, abs=1e-5)
    assert {name.split(".")[1] for name in results["G"].initial} == {"b16"}
    assert "synthesis.b16.conv0" in str(results["G"])
    assert "synthesis.b8" not in str(results["G"])
    assert ("D" in results) == source.startswith("snapshot")
    if "D" in results:
        for key in set(trainer.D.state_dict()) & set(grown.D.state_dict()):
            assert torch.equal(trainer.D.state_dict()[key], grown.D.state_dict()[key]), key
        assert {name.split(".")[0] for name in results["D"].initial} == {"b16"}


def test_a_grown_run_trains_its_new_block(small, rng, write_dataset):
    _, folder = small
    grown = run(rng, write_dataset, 16, seed=1)
    transfer(grown, folder / "snapshot.safetensors")
    before = {k: v.clone() for k, v in grown.G.state_dict().items()}
    for _ in range(2):
        grown.train_step()
    for key in ("synthesis.b16.torgb.weight", "synthesis.b16.conv0.weight", "synthesis.b4.conv1.weight"):
        assert not torch.equal(before[key], grown.G.state_dict()[key]), key


def test_networks_of_the_same_shape_are_copied_completely_and_optimizers_are_new(small, rng, write_dataset):
    trainer, folder = small
    again = run(rng, write_dataset, 8, seed=1)
    assert all(not r.initial and r.copied == r.total for r in transfer(again, folder / "snapshot.safetensors"))
    for name in ("G", "D", "G_ema"):
        for key, value in getattr(trainer, name).state_dict().items():
            assert torch.equal(getattr(again, name).state_dict()[key], value), key
    assert not again.opt_G.state
    assert again.nimg == 0


def test_the_first_step_keeps_the_average_of_the_source(small, rng, write_dataset):
    trainer, folder = small
    again = run(rng, write_dataset, 8, seed=1, **FROM_TRAINED_NETWORKS)
    transfer(again, folder / "snapshot.safetensors")
    again.train_step()
    beta = 0.5 ** (again.cfg.batch / (again.cfg.ema_kimg * 1000))
    source, now = trainer.G_ema.state_dict(), again.G_ema.state_dict()
    for key, p in again.G.named_parameters():
        torch.testing.assert_close(now[key], source[key].lerp(p.detach(), 1 - beta), rtol=1e-5, atol=1e-6)


def test_an_official_pickle_gives_its_three_networks(rng, write_dataset, tmp_path):
    run_of = run(rng, write_dataset, 8)
    networks = [Generator(run_of.cfg.generator), Generator(run_of.cfg.generator), Discriminator(run_of.cfg.discriminator)]
    official_file(tmp_path / "x.pkl", *networks)
    results = transfer(run_of, tmp_path / "x.pkl")
    assert [str(r).split(":")[0] for r in results] == ["G", "D", "G_ema"]
    assert all(not r.initial for r in results)
    for name, network in zip(("G_ema", "G", "D"), networks, strict=True):
        for key, value in network.state_dict().items():
            torch.testing.assert_close(getattr(run_of, name).state_dict()[key], value, rtol=1e-6, atol=1e-7)


def test_tensors_of_another_width_keep_their_initial_values(small, rng, write_dataset):
    _, folder = small
    wider = run(rng, write_dataset, 8, channel_max=8)
    results = {r.network: r for r in transfer(wider, folder / "snapshot.safetensors")}
    assert "mapping.fc0.weight" not in results["G"].initial
    assert "synthesis.b4.conv1.weight" in results["G"].initial
    # All its RGB layers are new. With zero weights, the images would be empty.
    assert wider.G.synthesis.b4.torgb.weight.abs().max() > 0


def test_a_damaged_file_is_refused(small, rng, write_dataset, tmp_path):
    _, folder = small
    path = folder / "snapshot.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    (tmp_path / "damaged.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        transfer(run(rng, write_dataset, 8), tmp_path / "damaged.safetensors")
