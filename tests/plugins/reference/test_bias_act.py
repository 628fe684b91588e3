"""The reference bias_act equals its formula in float64 NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from stylert.plugins.reference.bias_act import bias_act

activations = st.sampled_from(["linear", "lrelu"])
shapes = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple)


def by_formula(x, b, activation, gain, clamp):
    if b is not None:
        x = x + b.reshape(1, -1, *[1] * (x.ndim - 2))
    y = np.where(x >= 0, x, 0.2 * x) if activation == "lrelu" else x
    y = y * (gain if gain is not None else 2**0.5 if activation == "lrelu" else 1)
    return y if clamp is None else np.clip(y, -clamp, clamp)


@settings(deadline=None, max_examples=150)
@given(
    shapes,
    activations,
    st.booleans(),
    st.none() | st.floats(0.01, 3),
    st.none() | st.floats(0.01, 3),
    st.integers(0, 2**32 - 1),
)
def test_bias_act_equals_its_formula(shape, activation, biased, gain, clamp, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * 2
    b = rng.normal(size=shape[1]) if biased else None
    expected = by_formula(x, b, activation, gain, clamp)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.float16, 2e-2)):
        bias = None if b is None else torch.from_numpy(b)
        y = bias_act(torch.from_numpy(x).to(dtype), bias, activation=activation, gain=gain, clamp=clamp)
        assert y.dtype == dtype
        np.testing.assert_allclose(y.double().numpy(), expected, rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=15)
@given(activations, st.none() | st.floats(0.5, 3), st.none() | st.just(1.0), st.integers(0, 2**32 - 1))
def test_first_and_second_derivatives_equal_finite_differences(activation, gain, clamp, seed):
    """Finite differences are wrong at a kink, so inputs near one are moved away."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, generator=g)
    b = torch.randn(3, dtype=torch.float64, generator=g) * 0.1
    unclamped = by_formula(x.numpy(), b.numpy(), activation, gain, None)
    near_kink = (np.abs(unclamped) < 1e-3) | (np.abs(np.abs(unclamped) - (clamp or 1e9)) < 1e-3)
    x = torch.where(torch.from_numpy(near_kink), x + 0.05, x).requires_grad_()

    def function(x, b):
        return bias_act(x, b, activation=activation, gain=gain, clamp=clamp)

    assert gradcheck(function, (x, b.requires_grad_()))
    assert gradgradcheck(function, (x, b))


def test_default_gain_keeps_the_mean_square_of_unit_normals(rng):
    x = torch.from_numpy(rng.normal(size=(400, 500)))
    for activation, second_moment in (("linear", 1.0), ("lrelu", 1.04)):
        assert bias_act(x, activation=activation).square().mean().item() == pytest.approx(second_moment, rel=0.03)


def test_the_input_does_not_change(rng):
    x = torch.from_numpy(rng.normal(size=(2, 3, 4)))
    before = x.clone()
    bias_act(x, torch.ones(3), activation="lrelu", clamp=0.5)
    assert torch.equal(x, before)


@pytest.mark.parametrize("activation", ["relu", "", "LRELU"])
def test_refuses_unknown_activations(activation):
    with pytest.raises(ValueError, match="activation must be one of linear, lrelu"):
        bias_act(torch.ones(1, 2), activation=activation)


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), ()])
def test_refuses_a_bias_that_does_not_match_the_channels(shape):
    with pytest.raises(ValueError, match="does not match 3 channels"):
        bias_act(torch.ones(2, 3, 4, 4), torch.ones(shape))


@pytest.mark.parametrize("gain", [0.0, -1.0, float("nan")])
def test_refuses_a_gain_that_is_not_positive(gain):
    with pytest.raises(ValueError, match="gain must be positive"):
        bias_act(torch.ones(1, 2), gain=gain)
