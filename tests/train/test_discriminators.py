"""Runs with another discriminator or loss: exact resume, frozen features, R2 over generated images, refused settings."""

import json

import numpy as np
import pytest
import torch

from stylert.core.errors import InputError
from stylert.models.projected_discriminator import ProjectedDiscriminator
from stylert.train import losses
from stylert.train.configuration.presets import resolve
from stylert.train.data.dataset import ImageDataset
from stylert.train.snapshots.trainer_state import restore_state, trainer_state
from stylert.train.trainer import Trainer

TINY = {"channel_base": 64, "channel_max": 8, "generator.z_dim": 8, "generator.w_dim": 8, "half": "none", "batch": 4}


@pytest.fixture
def dataset(rng, write_dataset):
    images = {f"{i}.png": rng.integers(0, 256, (8, 8, 3), np.uint8) for i in range(6)}
    return ImageDataset(write_dataset(images, labels=[[name, i % 2] for i, name in enumerate(images)]), use_labels=True)


def config(**changes):
    return resolve("cpu-small", 8, 2, **(TINY | changes))


VARIANTS = {
    "projected": {"projected": 32},
    "projected with pixels": {"projected": 32, "projected_pixels": 8},
    "relativistic": {"loss": "relativistic", "d_reg_interval": 2},
    "hinge": {"loss": "hinge", "d_lr": 0.001},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_run_resumes_exactly(dataset, name):
    cfg = config(**VARIANTS[name])
    straight, resumed = Trainer(cfg, dataset), Trainer(cfg, dataset)
    for _ in range(2):
        straight.train_step()
    tensors, facts = trainer_state(straight)
    restore_state(resumed, {k: v.clone() for k, v in tensors.items()}, json.loads(json.dumps(facts)))
    rng_state = torch.get_rng_state()
    expected = [straight.train_step() for _ in range(2)]
    torch.set_rng_state(rng_state)
    assert [resumed.train_step() for _ in range(2)] == expected
    for key, t in trainer_state(straight)[0].items():
        assert torch.equal(t, trainer_state(resumed)[0][key]), key


def test_a_projected_run_trains_the_generator_and_the_heads_alone(dataset):
    trainer = Trainer(config(projected=32), dataset)
    assert isinstance(trainer.D, ProjectedDiscriminator)
    before = {k: v.clone() for k, v in trainer_state(trainer)[0].items()}
    stats = trainer.train_step()
    assert {"loss_G", "loss_D"} <= stats.keys()
    assert stats["r1"] > 0
    assert "path_length" not in stats
    after = trainer_state(trainer)[0]
    changed = {k for k in before if k.startswith(("G.", "D.")) and not torch.equal(before[k], after[k])}
    assert any(k.startswith("G.synthesis.") for k in changed)
    heads = {k for k in changed if k.startswith("D.")}
    assert heads
    assert all(k.startswith("D.heads.") for k in heads)


def test_micro_batches_of_a_projected_run_see_the_same_weights(dataset, monkeypatch):
    trainer = Trainer(config(projected=32, batch_gpu=2, mbstd_group_size=2), dataset)
    seen = []
    monkeypatch.setattr(
        trainer.phase_losses, "run_discriminator", lambda *args: (seen.append(_heads(trainer)), trainer.D(*args))[1]
    )
    trainer.train_step()
    generator_phase, discriminator_phase = seen[:2], seen[2:]
    assert len(discriminator_phase) == 4  # R1 judges maps and is not among them
    for phase in (generator_phase, discriminator_phase):
        assert all(torch.equal(w, phase[0]) for w in phase)


def _heads(trainer):
    return torch.cat([m.weight.detach().flatten() for m in trainer.D.heads.modules() if hasattr(m, "parametrizations")])


def test_r1_of_a_projected_run_is_that_of_its_maps(dataset):
    trainer = Trainer(config(projected=32, aug="noaug", r1_gamma=3.0), dataset)
    images = trainer.loader.batch(0)[0]
    labels = torch.eye(2)[[0, 1, 0, 1]]
    penalty, _ = trainer.phase_losses.r1(images, labels)
    maps = [m.detach() for m in trainer.D.maps(images.float() / 127.5 - 1)]
    eps, expected = 1e-2, 0.0
    generator = torch.Generator().manual_seed(0)
    for index, m in enumerate(maps):  # the mean square of directional derivatives along random signs is that of the gradient
        for _ in range(100):
            direction = (torch.randint(0, 2, m.shape, generator=generator) * 2 - 1).to(m)
            shifted = [[*maps[:index], m + s * eps * direction, *maps[index + 1 :]] for s in (1, -1)]
            slopes = (trainer.D.judge(shifted[0], labels) - trainer.D.judge(shifted[1], labels)).sum(1) / (2 * eps)
            expected += float(slopes.detach().square().mean()) / 100
    assert float(penalty.detach()) / trainer.cfg.d_reg_interval == pytest.approx(3.0 / 2 * expected, rel=0.3)


def test_pixels_beside_the_heads_add_the_losses_and_the_penalty_of_stylegan2(dataset):
    shared = {"projected": 32, "aug": "noaug", "mixing_prob": 0.0}
    both, heads = (Trainer(config(**shared, **more), dataset) for more in ({"projected_pixels": 8}, {}))
    pixels = Trainer(config(mixing_prob=0.0, d_reg_interval=both.cfg.d_reg_interval), dataset)
    assert both.cfg.pixels_r1_gamma == pixels.cfg.r1_gamma > 0
    for alone, discriminator in ((heads, both.D), (pixels, both.D.pixels)):
        alone.G.load_state_dict(both.G.state_dict())
        alone.D.load_state_dict(discriminator.state_dict(), strict=discriminator is not both.D)
    images, labels = both.loader.batch(0)
    for phase in ("generator", "discriminator", "r1"):
        of_both, of_heads, of_pixels = (_seeded_loss(trainer, phase, images, labels) for trainer in (both, heads, pixels))
        assert of_both == pytest.approx(of_heads + of_pixels, rel=1e-5), phase


def _seeded_loss(trainer, phase, images, labels):
    torch.manual_seed(0)
    return float(getattr(trainer.phase_losses, phase)(images, labels)[0].detach())


def test_the_pixels_have_the_learning_rate_of_the_generator(dataset):
    trainer = Trainer(config(projected=32, projected_pixels=8, lr=0.003, d_lr=0.001, d_reg_interval=4), dataset)
    rates = {p: group["lr"] for group in trainer.opt_D.param_groups for p in group["params"]}
    for module, lr in ((trainer.D.heads, 0.001), (trainer.D.pixels, 0.003)):
        assert {rates.pop(p) for p in module.parameters()} == {lr * 4 / 5}
    assert not rates


def test_pixels_beyond_those_of_the_images_are_refused(dataset):
    with pytest.raises(InputError, match="projected_pixels 16 is larger than the images, which have 8 px"):
        Trainer(config(projected=32, projected_pixels=16), dataset)


def test_pixels_are_penalised_without_a_penalty_of_the_heads(dataset):
    stats = Trainer(config(projected=32, projected_pixels=8, r1_gamma=0.0), dataset).train_step()
    assert stats["r1"] > 0


def test_r2_is_the_penalty_of_r1_over_generated_images(dataset, monkeypatch):
    cfg = config(loss="relativistic", r1_gamma=3.0, pl_weight=0.0)
    assert cfg.r2_gamma == cfg.r1_gamma
    trainer = Trainer(cfg, dataset)
    seen = []
    penalty = losses.gradient_penalty

    def recorded(discriminator, images, c, gamma, half=None):
        seen.append((images, gamma, penalty(discriminator, images, c, gamma, half)))
        return seen[-1][-1]

    monkeypatch.setattr(losses, "gradient_penalty", recorded)
    stats = trainer.train_step()
    (real, _, r1), (fake, gamma, r2) = seen
    assert gamma == 3.0
    assert (stats["r1"], stats["r2"]) == (pytest.approx(r1.item()), pytest.approx(r2.item()))
    pixels = torch.from_numpy(dataset.images[:]).float() / 127.5 - 1
    assert all((pixels - x).abs().amin() < 1e-6 for x in real)
    assert not any((pixels - x).abs().amax((1, 2, 3)).min() < 1e-2 for x in fake)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projected": 48}, "multiple of 32"),
        ({"projected": 32, "freeze_d": 1}, "freeze_d"),
        ({"projected_pixels": 8}, "needs projected"),
        ({"projected": 32, "projected_pixels": 12}, "power of two"),
        ({"loss": "wasserstein"}, "logistic, relativistic, hinge"),
        ({"r2_gamma": 1.0, "r1_gamma": 0.0}, "r2_gamma needs r1_gamma"),
        ({"d_lr": 0.0}, "positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)
