"""The reference ModulatedConv2d equals the paper's form: weights per sample, in float64 loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from stylert.plugins.reference.modulated_conv2d import demodulation, modulated_conv2d

seeds = st.integers(0, 2**32 - 1)


def correlate(x, w):
    """Zero-padded correlation of `[I, H, W]` with `[O, I, k, k]`, of the input's size."""
    pad = w.shape[2] // 2
    canvas = np.pad(x, [(0, 0), (pad, pad), (pad, pad)])
    y = np.zeros((len(w), *x.shape[1:]))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            y[:, i, j] = np.einsum("oikl,ikl->o", w, canvas[:, i : i + w.shape[2], j : j + w.shape[2]])
    return y


def upsampling(x, w, f):
    """Every input pixel adds the kernel to the output, two pixels apart. Then the FIR filters with gain 4.

    The alignment is that of StyleGAN2's padding.
    """
    k, (fh, fw), (_, h, width) = w.shape[2], f.shape, x.shape
    spread = np.zeros((len(w), 2 * h + k - 2, 2 * width + k - 2))
    for i in range(h):
        for j in range(width):
            spread[:, 2 * i : 2 * i + k, 2 * j : 2 * j + k] += np.einsum("oikl,i->okl", w, x[:, i, j])
    # The padding of the convolution, k // 2, and of the filter, (f + 1) // 2 and (f - 2) // 2, less the margin of
    # `spread`.
    before, after = k // 2 + (fh + 1) // 2 - (k - 1), k // 2 + (fh - 2) // 2 - (k - 2)
    margin = 8
    canvas = np.pad(spread, [(0, 0), (margin, margin), (margin, margin)])
    y = np.zeros((len(w), 2 * h, 2 * width))
    assert spread.shape[1] + before + after - fh + 1 == 2 * h
    for i in range(2 * h):
        for j in range(2 * width):
            top, left = i - before + margin, j - before + margin
            y[:, i, j] = 4 * (canvas[:, top : top + fh, left : left + fw] * f[::-1, ::-1]).sum((1, 2))
    return y


def by_paper(x, weight, style, demod, noise, bias, up, f, activation, gain, clamp):
    y = []
    for n in range(len(x)):
        w = weight * style[n][None, :, None, None]
        if demod is not None:
            w = w * demod[n][:, None, None, None]
        y.append(correlate(x[n], w) if up == 1 else upsampling(x[n], w, f))
    y = np.stack(y)
    y = y if noise is None else y + noise
    y = y if bias is None else y + bias[:, None, None]
    y = np.where(y > 0, y, 0.2 * y) if activation == "lrelu" else y
    y = y * (gain if gain is not None else 2**0.5 if activation == "lrelu" else 1)
    return y if clamp is None else np.clip(y, -clamp, clamp)


def tensors(arrays, dtype=torch.float64):
    return [None if a is None else torch.from_numpy(a).to(dtype) for a in arrays]


@settings(deadline=None, max_examples=80)
@given(
    n=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.sampled_from([1, 3, 5]),
    taps=st.integers(2, 5),
    up=st.sampled_from([1, 2]),
    demodulated=st.booleans(),
    noise_shape=st.sampled_from([None, "image", "batch", "scalar"]),
    biased=st.booleans(),
    activation=st.sampled_from(["linear", "lrelu"]),
    gain=st.none() | st.floats(0.2, 3),
    clamp=st.none() | st.floats(0.1, 5),
    seed=seeds,
)
def test_equals_the_paper(n, channels, size, kernel, taps, up, demodulated, noise_shape, biased, activation, gain, clamp, seed):
    rng = np.random.default_rng(seed)
    (i, o), (h, w) = channels, size
    shape = {"image": (h * up, w * up), "batch": (n, 1, h * up, w * up), "scalar": (1, 1, 1, 1)}
    arrays = [
        rng.normal(size=(n, i, h, w)),
        rng.normal(size=(o, i, kernel, kernel)),
        rng.normal(size=(n, i)),
        rng.uniform(0.1, 2, size=(n, o)) if demodulated else None,
        rng.normal(size=shape[noise_shape]) if noise_shape else None,
        rng.normal(size=o) if biased else None,
    ]
    f = rng.normal(size=(taps, taps))
    expected = by_paper(*arrays, up, f, activation, gain, clamp)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 3e-5)):
        y = modulated_conv2d(
            *tensors(arrays, dtype), up=up, f=torch.from_numpy(f), activation=activation, gain=gain, clamp=clamp
        )
        assert y.dtype == dtype
        np.testing.assert_allclose(y.double().numpy(), expected, rtol=tolerance, atol=tolerance * 30)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 3]), seeds)
def test_demodulation_is_equation_3(n, i, o, k, seed):
    rng = np.random.default_rng(seed)
    weight, style = rng.normal(size=(o, i, k, k)), rng.normal(size=(n, i))
    modulated = style[:, None, :, None, None] * weight[None]
    expected = 1 / np.sqrt((modulated**2).sum((2, 3, 4)) + 1e-8)
    np.testing.assert_allclose(demodulation(*tensors([weight, style])).numpy(), expected, rtol=1e-10)


def test_demodulation_of_a_zero_style_is_finite():
    assert demodulation(torch.ones(2, 3, 3, 3), torch.zeros(1, 3)).tolist() == [[pytest.approx(1e4)] * 2]


def test_demodulation_gives_unit_variance_for_unit_normal_input(rng):
    """This is the purpose of equation 3. Border pixels are left out, because the kernel sees padding there."""
    x, weight, style = tensors([rng.normal(size=(1, 8, 130, 130)), rng.normal(size=(4, 8, 3, 3)), rng.normal(size=(1, 8))])
    y = modulated_conv2d(x, weight, style, demodulation(weight, style))[:, :, 1:-1, 1:-1]
    np.testing.assert_allclose(y.var((0, 2, 3)).numpy(), 1, rtol=0.1)


@settings(deadline=None, max_examples=8)
@given(st.sampled_from([1, 2]), st.sampled_from(["linear", "lrelu"]), seeds)
def test_first_and_second_derivatives_equal_finite_differences(up, activation, seed):
    """For every operand that training differentiates, and through the demodulation."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=g)

    x, weight, style, bias = draw(1, 2, 2, 2), draw(2, 2, 3, 3), draw(1, 2), draw(2)
    noise, f = draw(1, 1, 2 * up, 2 * up), draw(4, 4)

    def function(x, weight, style, noise, bias):
        d = demodulation(weight, style)
        return modulated_conv2d(x, weight, style, d, noise, bias, up=up, f=f, activation=activation)

    # Finite differences are wrong at the kink of the leaky ReLU, so every output is moved away from it.
    y = function(x, weight, style, noise, bias)
    if activation == "lrelu" and y.abs().min() < 1e-3:
        bias = bias + 20
    inputs = tuple(t.requires_grad_() for t in (x, weight, style, noise, bias))
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_samples_of_a_batch_are_independent(rng):
    x, weight, style, demod = tensors(
        [rng.normal(size=s) for s in [(3, 4, 5, 5), (2, 4, 3, 3), (3, 4), (3, 2)]],
    )
    whole = modulated_conv2d(x, weight, style, demod)
    for i in range(3):
        torch.testing.assert_close(modulated_conv2d(x[i : i + 1], weight, style[i : i + 1], demod[i : i + 1])[0], whole[i])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style": (2, 4)}, "do not fit together"),
        ({"style": (1, 3)}, "do not fit together"),
        ({"weight": (5, 4, 3, 3)}, "do not fit together"),
        ({"demod": (2, 3)}, "do not fit together"),
        ({"weight": (5, 3, 2, 2)}, "square and odd"),
        ({"weight": (5, 3, 3, 1)}, "square and odd"),
        ({"bias": (4,)}, "does not match 5 channels"),
        ({"up": 2, "f": None}, "needs the FIR"),
        ({"up": 3}, "up must be 1 or 2"),
    ],
)
def test_operands_that_do_not_fit_are_refused(changes, message):
    shapes = {"x": (2, 3, 4, 4), "weight": (5, 3, 3, 3), "style": (2, 3), "demod": (2, 5), "bias": (5,), "f": (4, 4)}
    arguments = {k: torch.ones(v) if isinstance(v, tuple) else v for k, v in (shapes | changes).items()}
    with pytest.raises(ValueError, match=message):
        modulated_conv2d(**arguments)
