"""The projected discriminator: frozen features, fixed mixing as written in NumPy, heads of bounded slope."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from stylert.models.features.effnet_lite0 import normalized
from stylert.models.features.pyramid import CHANNELS, STRIDES, EffNetLite0Pyramid
from stylert.models.projected_discriminator import MIXED_CHANNELS, FixedMixing, ProjectedDiscriminator
from stylert.models.stylegan2.config import DiscriminatorConfig

SIZE = 64


@pytest.fixture(scope="module")
def pyramid():
    return EffNetLite0Pyramid(SIZE)


@pytest.fixture
def discriminator(seed):
    torch.manual_seed(seed)
    return ProjectedDiscriminator(SIZE)


@pytest.fixture
def images(rng):
    return torch.from_numpy(rng.uniform(-1, 1, (4, 3, SIZE, SIZE)).astype(np.float32))


def test_the_maps_are_those_inside_the_network(pyramid, images):
    maps = pyramid(images)
    assert [tuple(m.shape) for m in maps] == [(4, c, SIZE // s, SIZE // s) for c, s in zip(CHANNELS, STRIDES, strict=True)]
    network = pyramid.network
    expected = network.extract_features(normalized((images + 1) / 2))
    torch.testing.assert_close(network._swish(network._bn1(network._conv_head(maps[-1]))), expected)


def test_images_are_resized_and_grey_is_three_equal_channels(pyramid, images):
    grey = images[:, :1]
    for a, b in zip(pyramid(grey), pyramid(grey.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(a, b)
    assert pyramid(images[:, :, :32, :32])[0].shape == pyramid(images)[0].shape
    constant = torch.full((1, 3, 16, 16), 0.25)
    torch.testing.assert_close(pyramid(constant)[3], pyramid(constant[:, :, :1, :1].expand(1, 3, SIZE, SIZE))[3])


def test_the_mixing_is_that_of_the_paper_in_float64(rng):
    mixing = FixedMixing()
    sides = [16, 8, 4, 2]
    maps = [rng.normal(size=(2, c, s, s)) for c, s in zip(CHANNELS, sides, strict=True)]
    actual = mixing([torch.from_numpy(m).float() for m in maps])

    def conv(module, x):
        weight = module.weight.double().numpy()
        if weight.shape[2] == 1:
            return np.einsum("oi,nihw->nohw", weight[:, :, 0, 0], x)
        return np.stack([[sum(correlate(c, k, mode="constant") for c, k in zip(n, w, strict=True)) for w in weight] for n in x])

    def upsampled(x):  # bilinear, twice as large: each new pixel lies a quarter between two old ones
        def along(x, axis):
            index = np.arange(x.shape[axis])
            before, after = (x.take(i.clip(0, x.shape[axis] - 1), axis) for i in (index - 1, index + 1))
            pairs = np.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
            return pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])

        return along(along(x, 2), 3)

    mixed = [conv(m, x) for m, x in zip(mixing.across_channels, maps, strict=True)]
    for i in (2, 1, 0):
        mixed[i] = mixed[i] + upsampled(conv(mixing.across_scales[i], mixed[i + 1]))
    for a, e, channels in zip(actual, mixed, MIXED_CHANNELS, strict=True):
        assert a.shape[1] == channels
        np.testing.assert_allclose(a.detach().numpy(), e, rtol=1e-4, atol=1e-4 * np.abs(e).max())


def test_power_iterations_bound_every_weight_by_its_largest_singular_value(discriminator):
    for _ in range(100):
        discriminator.update_spectral_norms()
    weights = [m.weight for m in discriminator.heads.modules() if hasattr(m, "parametrizations")]
    assert len(weights) >= 8
    for weight in weights:
        matrix = weight.detach().double().flatten(1).numpy()
        assert np.linalg.svd(matrix, compute_uv=False)[0] == pytest.approx(1, abs=0.05)


def test_judging_changes_nothing_and_a_power_iteration_changes_the_weights_alone(discriminator, images):
    before = {k: v.clone() for k, v in discriminator.state_dict().items()}
    first = discriminator(images)
    assert first.shape == (4, 4)
    torch.testing.assert_close(discriminator(images), first, rtol=0, atol=0)
    assert all(torch.equal(v, before[k]) for k, v in discriminator.state_dict().items())
    discriminator.update_spectral_norms()
    changed = {k for k, v in discriminator.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(k.startswith("heads.") and k.endswith(("._u", "._v")) for k in changed)


def test_only_the_heads_are_trained_and_the_image_has_a_gradient(discriminator, images):
    trained = {k for k, p in discriminator.named_parameters() if p.requires_grad}
    assert trained == {k for k, _ in discriminator.named_parameters() if k.startswith("heads.")}
    images.requires_grad_()
    discriminator(images).sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()


def test_the_order_of_a_group_does_not_matter_and_its_variety_does(discriminator, images):
    logits = discriminator(images)
    torch.testing.assert_close(discriminator(images.flip(0)), logits.flip(0), rtol=1e-3, atol=1e-4)
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    assert (discriminator(images[:1].expand(4, -1, -1, -1))[0] - logits[0]).abs().max() > 1e-4


def test_logits_are_affine_in_the_label(seed, images, rng):
    torch.manual_seed(seed)
    discriminator = ProjectedDiscriminator(SIZE, c_dim=3)
    a, b = (torch.from_numpy(rng.normal(size=(4, 3)).astype(np.float32)) for _ in range(2))
    mixed = discriminator(images, 0.25 * a + 0.75 * b)
    expected = 0.25 * discriminator(images, a) + 0.75 * discriminator(images, b)
    torch.testing.assert_close(mixed, expected, rtol=1e-3, atol=1e-3)
    assert (discriminator(images, a) - discriminator(images, b)).abs().max() > 1e-3


def test_the_pixels_are_judged_on_block_averages_by_stylegan2s_discriminator(seed, images):
    torch.manual_seed(seed)
    config = DiscriminatorConfig(16, channel_base=64, channel_max=8, mbstd_group_size=2)
    discriminator = ProjectedDiscriminator(SIZE, pixels=config)
    blocks = images.double().numpy().reshape(4, 3, 16, 4, 16, 4).mean((3, 5))
    expected = discriminator.pixels(torch.from_numpy(blocks).float())
    logits = discriminator(images)
    assert logits.shape == (4, len(MIXED_CHANNELS) + 1)
    torch.testing.assert_close(logits[:, -1:], expected)
    discriminator.pixels = None
    torch.testing.assert_close(logits[:, :-1], discriminator(images))
