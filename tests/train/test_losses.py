"""Losses equal their formulas, and regularisers equal finite differences of the networks in float64 NumPy."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.networks import Discriminator, Generator
from stylert.train import losses
from stylert.train.configuration.train_config import LOSSES

TINY = {"resolution": 8, "channel_base": 64, "channel_max": 5, "mapping_layers": 2}
EPS = 1e-5


@pytest.fixture
def generator(rng, randomize):
    generator = randomize(Generator(GeneratorConfig(**TINY, z_dim=6, w_dim=5)))
    for name, p in generator.named_parameters():
        if name.endswith("noise_strength"):
            p.data.zero_()  # the images then depend on ws alone
    return generator


@pytest.fixture
def discriminator(rng, randomize):
    return randomize(Discriminator(DiscriminatorConfig(**TINY, img_channels=1, mbstd_group_size=2)))


logits = st.lists(st.floats(-50, 50), min_size=1, max_size=8)


@given(logits, logits)
def test_logistic_losses_equal_their_formulas(fake, real):
    def minus_log_sigmoid(x):
        return np.logaddexp(0, -np.array(x))

    f, r = torch.tensor(fake).double()[:, None], torch.tensor(real).double()[:, None]
    assert losses.generator_loss(f).item() == pytest.approx(minus_log_sigmoid(f.numpy()).mean(), rel=1e-9, abs=1e-12)
    expected = minus_log_sigmoid(-f.numpy()).mean() + minus_log_sigmoid(r.numpy()).mean()
    assert losses.discriminator_loss(f, r).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_r1_is_the_mean_squared_gradient_by_finite_differences(discriminator, reference, rng):
    real, gamma, paper = rng.normal(size=(2, 1, 8, 8)), rng.uniform(0.1, 10), reference(discriminator)

    def total(x):
        return paper.discriminator(x, None, "resnet", 2).sum()

    gradient = np.empty_like(real)
    for pixel in np.ndindex(*real.shape):
        step = np.zeros_like(real)
        step[pixel] = EPS
        gradient[pixel] = (total(real + step) - total(real - step)) / (2 * EPS)
    expected = gamma / 2 * (gradient**2).sum((1, 2, 3)).mean()
    assert losses.gradient_penalty(discriminator, torch.from_numpy(real).float(), None, gamma).item() == pytest.approx(
        expected, rel=1e-3
    )


def test_path_length_is_the_jacobian_product_by_finite_differences(generator, reference, rng, seed):
    ws = rng.normal(size=(3, generator.cfg.num_ws, 5))
    tensor = torch.from_numpy(ws).float().requires_grad_()
    before, decay = 0.3, 0.25
    torch.manual_seed(seed)
    # The penalty draws in the same order: the noise of the layers, then y.
    y = torch.randn_like(generator.synthesis(tensor, "random")).detach().double().numpy() / 8
    paper, product = reference(generator), np.empty_like(ws)
    for k in np.ndindex(*ws.shape[1:]):
        step = np.zeros_like(ws)
        step[:, *k] = EPS
        difference = paper.synthesis(ws + step, 8, False) - paper.synthesis(ws - step, 8, False)
        product[:, *k] = (difference * y).sum((1, 2, 3)) / (2 * EPS)
    lengths = np.sqrt((product**2).sum(2).mean(1))
    mean = before + decay * (lengths.mean() - before)

    torch.manual_seed(seed)
    pl_mean = torch.tensor(before)
    penalty = losses.path_length_penalty(generator, tensor, pl_mean, decay)
    assert pl_mean.item() == pytest.approx(mean, rel=1e-3)
    assert penalty.item() == pytest.approx(((lengths - mean) ** 2).mean(), rel=1e-2, abs=1e-5)


def test_second_derivatives_reach_the_weights(generator, discriminator, rng):
    real = torch.from_numpy(rng.normal(size=(2, 1, 8, 8))).float()
    losses.gradient_penalty(discriminator, real, None, 1.0).backward()
    ws = losses.mixed_ws(generator, torch.randn(4, 6), None, 0.9)
    losses.path_length_penalty(generator, ws, torch.zeros([])).backward()
    for network in (generator, discriminator):
        for name, p in network.named_parameters():
            if name.endswith("weight"):
                assert p.grad is not None, name
                assert p.grad.isfinite().all(), name
                assert p.grad.abs().sum() > 0, name
    assert real.grad is None, "the images are no parameters"


def test_the_gradient_flows_through_the_mean_of_the_lengths(generator, seed):
    """With a decay of 1, the mean is that of this batch. So one length has no penalty and no gradient."""
    gradients = []
    for decay in (1.0, 0.0):
        torch.manual_seed(seed)
        ws = torch.randn(1, generator.cfg.num_ws, 5).requires_grad_()
        losses.path_length_penalty(generator, ws, torch.zeros([]), decay).backward()
        gradients.append(float(ws.grad.abs().max()))
    assert gradients[0] == 0 < gradients[1]


def test_no_gradient_flows_into_pl_mean(generator):
    pl_mean = torch.zeros([], requires_grad=False)
    losses.path_length_penalty(generator, losses.mixed_ws(generator, torch.randn(2, 6), None, 0), pl_mean).backward()
    assert not pl_mean.requires_grad
    assert pl_mean > 0


def test_r1_is_proportional_to_gamma(discriminator, rng):
    real = torch.from_numpy(rng.normal(size=(2, 1, 8, 8))).float()
    one, three = (losses.gradient_penalty(discriminator, real, None, gamma).item() for gamma in (1.0, 3.0))
    assert three == pytest.approx(3 * one, rel=1e-5)


def test_without_mixing_every_layer_gets_the_w_of_z(generator):
    z = torch.randn(3, 6)
    assert torch.equal(losses.mixed_ws(generator, z, None, 0.0), generator.mapping(z))


def test_mixing_has_one_uniform_crossover_for_the_whole_batch(rng):
    generator = Generator(GeneratorConfig(**{**TINY, "resolution": 16}, z_dim=6, w_dim=5))
    z, crossovers = torch.randn(3, 6), Counter()
    for _ in range(200):
        ws = losses.mixed_ws(generator, z, None, 1.0)
        own = (ws == generator.mapping(z)).all(2)
        assert (own == own[0]).all(), "one crossover for the batch"
        n = int(own[0].sum())
        assert own[0, :n].all(), "the first layers keep their w"
        assert (ws[:, n:] == ws[:, n : n + 1]).all(), "the last layers share one other w"
        crossovers[n] += 1
    # Five crossovers of probability 1/5: 200 draws give one of them 12 times or fewer once in 10^6.
    assert set(crossovers) == {1, 2, 3, 4, 5}
    assert min(crossovers.values()) > 12


def test_mixing_happens_with_its_probability(generator):
    z = torch.randn(1, 6)
    plain = generator.mapping(z)
    mixed = sum(not torch.equal(losses.mixed_ws(generator, z, None, 0.3), plain) for _ in range(500))
    assert 150 - 55 < mixed < 150 + 55  # more than five standard deviations


def test_only_the_first_latent_updates_w_avg_and_only_on_request(generator):
    z, before = torch.randn(64, 6), generator.mapping.w_avg.clone()
    losses.mixed_ws(generator, z, None, 1.0)
    assert torch.equal(generator.mapping.w_avg, before)
    losses.mixed_ws(generator, z, None, 1.0, update_w_avg=True)
    torch.testing.assert_close(generator.mapping.w_avg, before.lerp(generator.mapping(z)[:, 0].mean(0), 1 - 0.995))


@given(logits, logits)
def test_relativistic_losses_compare_pairs_and_are_each_others_mirror(fake, real):
    n = min(len(fake), len(real))
    f, r = torch.tensor(fake[:n]).double()[:, None], torch.tensor(real[:n]).double()[:, None]
    relativistic = losses.ADVERSARIAL_LOSSES["relativistic"]
    expected = np.logaddexp(0, f.numpy() - r.numpy()).mean()
    assert relativistic.discriminator(f, r).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert relativistic.generator(r, f).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(logits, logits)
def test_hinge_losses_equal_their_formulas(fake, real):
    f, r = torch.tensor(fake).double()[:, None], torch.tensor(real).double()[:, None]
    hinge = losses.ADVERSARIAL_LOSSES["hinge"]
    expected = np.maximum(0, 1 + f.numpy()).mean() + np.maximum(0, 1 - r.numpy()).mean()
    assert hinge.discriminator(f, r).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert hinge.generator(f, None).item() == pytest.approx(-f.numpy().mean(), rel=1e-9, abs=1e-12)


def test_the_configuration_offers_the_losses_that_there_are():
    assert tuple(losses.ADVERSARIAL_LOSSES) == LOSSES
