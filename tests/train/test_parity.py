"""Steps of the trainer equal an independent float64 implementation of the papers, to a millionth of the learning rate."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stylert.models.stylegan2 import discriminator, generator
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.train.configuration.train_config import TrainConfig
from stylert.train.data.dataset import ImageDataset
from stylert.train.trainer import Trainer
from tests.train.float64_training import ReferenceRun

NETWORK = {"resolution": 8, "channel_base": 64, "channel_max": 6, "mapping_layers": 2}
STEPS = 3
DRAWING = ("randn", "randn_like", "rand", "randint")


def config(c_dim=0, architecture="resnet", **changes):
    """Of three steps, the first has both regularisers, the second none, and the third the path length."""
    run = {"batch": 8, "kimg": 1, "g_reg_interval": 2, "d_reg_interval": 3, "ema_kimg": 0.05, "ema_rampup": 0.4}
    return TrainConfig(
        GeneratorConfig(**NETWORK, z_dim=6, w_dim=5, c_dim=c_dim),
        DiscriminatorConfig(**NETWORK, c_dim=c_dim, mbstd_group_size=2, architecture=architecture),
        **(run | changes),
    )


@contextmanager
def float64_trainer(cfg, dataset):
    """A trainer that computes in float64. Its weights, biases and noise strengths are random."""
    trainer = Trainer(cfg, dataset)
    for network in (trainer.G, trainer.D):
        network.double()
        for p in network.parameters():
            p.data += 0.2 * torch.randn(p.shape)
    trainer.G.mapping.w_avg += torch.randn(trainer.G.mapping.w_avg.shape)
    trainer.G_ema.double().load_state_dict(trainer.G.state_dict())
    trainer.pl_mean = trainer.phase_losses.pl_mean = trainer.pl_mean.double()
    double = SimpleNamespace(**{**vars(torch), "float32": torch.float64})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        for module in (generator, discriminator):
            patch.setattr(module, "torch", double)
        torch.set_default_dtype(torch.float64)
        try:
            yield trainer
        finally:
            torch.set_default_dtype(torch.float32)


@contextmanager
def recorded_draws():
    """The random tensors that are drawn while the context lasts, in order."""
    draws = []
    with pytest.MonkeyPatch.context() as patch:
        for name in DRAWING:
            draw = _recorded(getattr(torch, name), draws)
            patch.setattr(torch, name, draw)
            patch.setattr(generator.torch, name, draw)
        yield draws


def _recorded(function, draws):
    def draw(*args, **kwargs):
        draws.append(function(*args, **kwargs))
        return draws[-1]

    return draw


@pytest.fixture
def dataset(rng, write_dataset):
    images = {f"{i:02d}.png": rng.integers(0, 256, (8, 8, 3), np.uint8) for i in range(19)}
    return ImageDataset(write_dataset(images, [[name, i % 3] for i, name in enumerate(images)]), use_labels=True)


CASES = {
    "plain": config(),
    "conditional": config(c_dim=3),
    "two rounds of half the batch": config(batch_gpu=4),
    "without mixing and ramp-up": config(mixing_prob=0.0, ema_rampup=None),
    "as cifar": config(architecture="orig", pl_weight=0.0, mixing_prob=0.0),
    "without R1": config(r1_gamma=0.0),
}


@pytest.mark.parametrize("cfg", CASES.values(), ids=CASES.keys())
def test_three_steps_equal_the_float64_reference(cfg, dataset):
    if not cfg.generator.c_dim:
        dataset.labels = None
    with float64_trainer(cfg, dataset) as trainer:
        reference = ReferenceRun(
            cfg,
            trainer.G.state_dict(),
            trainer.D.state_dict(),
            [k for k, _ in trainer.G.named_parameters()],
            [k for k, _ in trainer.D.named_parameters()],
        )
        for _ in range(STEPS):
            index = dataset.batch_indices(trainer.nimg, cfg.batch, cfg.seed)
            with recorded_draws() as draws:
                trainer.train_step()
            images = torch.from_numpy(dataset.images[index]).double() / 127.5 - 1
            labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[index]).double()
            reference.train_step(images, labels, draws)
    tolerance = 1e-6 * cfg.lr
    for name in ("G", "D", "G_ema"):
        expected = getattr(reference, name)
        for key, t in getattr(trainer, name).state_dict().items():
            assert t.dtype == torch.float64
            assert float((t - expected[key].detach()).abs().max()) < tolerance, f"{name}.{key}"
    torch.testing.assert_close(trainer.pl_mean, reference.pl_mean, rtol=0, atol=tolerance)
    for network, parameters in trainer.trainable.items():
        optimizer = getattr(trainer, f"opt_{network}")
        for key, p in parameters.items():
            assert optimizer.state[p]["step"] == reference.adam[network][key][0], key
