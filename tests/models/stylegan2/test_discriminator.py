"""The discriminator equals the papers' formulas in float64 NumPy; minibatch standard deviation, half precision, clamping."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.models.stylegan2.discriminator import minibatch_std
from tests.models.stylegan2.tiny import tiny_discriminator


@pytest.mark.parametrize("labels", [0, 3])
@pytest.mark.parametrize("architecture", ["resnet", "skip", "orig"])
def test_discriminator_equals_the_reference(reference, randomize, rng, architecture, labels):
    network = randomize(tiny_discriminator(architecture=architecture, c_dim=labels))
    image, c = rng.normal(size=(4, 3, 16, 16)), np.eye(3)[rng.integers(0, 3, 4)] if labels else None
    expected = reference(network).discriminator(image, c, architecture, group=2)
    logits = network(torch.from_numpy(image), None if c is None else torch.from_numpy(c))
    assert logits.shape == (4, 1)
    np.testing.assert_allclose(logits.detach().numpy(), expected, rtol=2e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_and_close(half, seed):
    torch.manual_seed(seed)
    network = tiny_discriminator(num_fp16_res=2, conv_clamp=256.0, channel_base=256, channel_max=32)
    image = torch.randn(4, 3, 16, 16)
    exact, logits = network(image), network(image, half=half)
    assert logits.dtype == torch.float32
    assert not torch.equal(exact, logits)
    torch.testing.assert_close(logits, exact, rtol=0.1, atol=0.15)


def test_clamp_scales_with_the_residual_gain(seed):
    torch.manual_seed(seed)
    network, largest = tiny_discriminator(conv_clamp=0.1), {}
    for name, module in network.named_modules():
        if name.endswith(("fromrgb", "conv0", "conv1")):
            module.weight.data.mul_(1000)  # so that every layer meets its bound
            module.register_forward_hook(lambda m, i, y, name=name: largest.update({name: y.abs().max().item()}))
    network(torch.randn(4, 3, 16, 16) * 10)
    expected = {name: 0.1 * (0.5**0.5 if name.endswith("conv1") else 1) for name in largest}
    assert len(largest) == 5
    assert largest == pytest.approx(expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_minibatch_std_equals_its_definition(group, groups, maps, width, seed):
    n, channels = group * groups, maps * width
    x = np.random.default_rng(seed).normal(size=(n, channels, 2, 3))
    y = minibatch_std(torch.from_numpy(x).float(), group, maps).numpy()
    np.testing.assert_allclose(y[:, :channels], x, rtol=1e-5)
    for i in range(groups):
        for f in range(maps):
            members = x[i::groups, f * width : (f + 1) * width]
            expected = np.sqrt(members.var(0) + 1e-8).mean()
            np.testing.assert_allclose(y[i::groups, channels + f], expected, rtol=1e-4, atol=1e-5)


def test_minibatch_std_makes_one_group_of_a_small_batch():
    x = torch.randn(6, 2, 2, 2)
    assert torch.equal(minibatch_std(x, None, 1), minibatch_std(x, 6, 1))
    assert torch.equal(minibatch_std(x, 32, 1), minibatch_std(x, 6, 1))


def test_batches_and_channels_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="do not divide"):
        minibatch_std(torch.ones(6, 2, 2, 2), 4, 1)
    with pytest.raises(ValueError, match="do not divide"):
        minibatch_std(torch.ones(4, 3, 2, 2), 4, 2)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\[N, 3, 16, 16\]"):
        tiny_discriminator()(torch.ones(2, 3, 8, 8))
