"""The reference Upfirdn2d equals scipy.signal.upfirdn, and its definition in float64 loops."""

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from stylert.plugins.reference.upfirdn2d import downsample2d, setup_filter, upfirdn2d, upsample2d

factors = st.tuples(st.integers(1, 3), st.integers(1, 3))
paddings = st.tuples(*[st.integers(-4, 5)] * 4)
sizes = st.tuples(st.integers(1, 7), st.integers(1, 7))
seeds = st.integers(0, 2**32 - 1)


def by_definition(x, f, up, down, padding, flip, gain):
    """Zero-insert, pad or crop, filter, decimate: one pixel at a time."""
    n, c, h, w = x.shape
    fh, fw = f.shape
    top, bottom, left, right = padding
    inserted = np.zeros((n, c, h * up[0], w * up[1]))
    inserted[:, :, :: up[0], :: up[1]] = x
    canvas = np.zeros((n, c, h * up[0] + top + bottom, w * up[1] + left + right))
    for i in range(canvas.shape[2]):
        for j in range(canvas.shape[3]):
            if 0 <= i - top < h * up[0] and 0 <= j - left < w * up[1]:
                canvas[:, :, i, j] = inserted[:, :, i - top, j - left]
    kernel = f if flip else f[::-1, ::-1]
    out_h, out_w = (canvas.shape[2] - fh) // down[0] + 1, (canvas.shape[3] - fw) // down[1] + 1
    y = np.zeros((n, c, out_h, out_w))
    for i in range(out_h):
        for j in range(out_w):
            window = canvas[:, :, i * down[0] : i * down[0] + fh, j * down[1] : j * down[1] + fw]
            y[:, :, i, j] = gain * (window * kernel).sum((2, 3))
    return y


def by_scipy(x, taps, up, down, before, after, axis):
    """One axis: a window of scipy's full convolution, as the padding selects it, with zeros outside."""
    full = scipy.signal.upfirdn(taps, x, up, 1, axis=axis)
    length = x.shape[axis] * up + before + after - len(taps) + 1
    window = np.arange(length) + len(taps) - 1 - before
    inside = (window >= 0) & (window < full.shape[axis])
    shape = [1] * x.ndim
    shape[axis] = length
    y = np.take(full, np.where(inside, window, 0), axis=axis) * inside.reshape(shape)
    return np.take(y, np.arange(0, length, down), axis=axis)


def leaves_output(size, taps, up, padding):
    top, bottom, left, right = padding
    return size[0] * up[0] + top + bottom >= taps[0] and size[1] * up[1] + left + right >= taps[1]


def run(x, f, up, down, padding, flip, gain, dtype):
    y = upfirdn2d(torch.from_numpy(x).to(dtype), torch.from_numpy(f), up, down, padding, flip, gain)
    assert y.dtype == dtype
    return y.double().numpy()


def assert_close(y, expected, rtol):
    assert y.shape == expected.shape
    scale = np.abs(expected).max(initial=1e-30)
    assert np.abs(y - expected).max(initial=0) <= rtol * max(scale, 1e-3)


@settings(deadline=None, max_examples=150)
@given(sizes, st.integers(1, 5), st.integers(1, 5), factors, factors, paddings, st.booleans(), seeds)
def test_separable_filters_equal_scipy(size, ty, tx, up, down, padding, flip, seed):
    assume(leaves_output(size, (ty, tx), up, padding))
    rng = np.random.default_rng(seed)
    x, fy, fx, gain = rng.normal(size=(2, 2, *size)), rng.normal(size=ty), rng.normal(size=tx), rng.uniform(0.1, 4)
    expected = by_scipy(x, fy[::-1] if flip else fy, up[0], down[0], *padding[:2], axis=2)
    expected = by_scipy(expected, fx[::-1] if flip else fx, up[1], down[1], *padding[2:], axis=3) * gain
    f = np.outer(fy, fx)
    assert_close(run(x, f, up, down, padding, flip, gain, torch.float64), expected, 1e-10)
    assert_close(run(x, f, up, down, padding, flip, gain, torch.float32), expected, 2e-5)


@settings(deadline=None, max_examples=100)
@given(sizes, st.integers(1, 5), st.integers(1, 5), factors, factors, paddings, st.booleans(), seeds)
def test_any_filter_equals_the_definition(size, fh, fw, up, down, padding, flip, seed):
    assume(leaves_output(size, (fh, fw), up, padding))
    rng = np.random.default_rng(seed)
    x, f, gain = rng.normal(size=(1, 3, *size)), rng.normal(size=(fh, fw)), rng.uniform(-2, 4)
    expected = by_definition(x, f, up, down, padding, flip, gain)
    assert_close(run(x, f, up, down, padding, flip, gain, torch.float64), expected, 1e-10)
    assert_close(run(x, f, up, down, padding, flip, gain, torch.float32), expected, 2e-5)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3), seeds)
def test_full_padding_is_scipy_upfirdn_itself(length, taps, up, down, seed):
    rng = np.random.default_rng(seed)
    x, f = rng.normal(size=(1, 1, length, 1)), rng.normal(size=(taps, 1))
    y = run(x, f, (up, 1), (down, 1), (taps - 1, taps - up, 0, 0), False, 1.0, torch.float64)
    assert_close(y[0, 0, :, 0], scipy.signal.upfirdn(f[:, 0], x[0, 0, :, 0], up, down), 1e-10)


def test_int_pair_and_quadruple_arguments_mean_the_same(rng):
    x, f = torch.from_numpy(rng.normal(size=(1, 2, 5, 6))), setup_filter().double()
    whole = upfirdn2d(x, f, 2, 3, (2, 2, 2, 2))
    assert torch.equal(whole, upfirdn2d(x, f, (2, 2), [3, 3], 2))
    assert torch.equal(whole, upfirdn2d(x, f, [2, 2], 3, (2, 2)))


@settings(deadline=None, max_examples=12)
@given(factors, factors, paddings, st.booleans(), seeds)
def test_first_and_second_derivatives_equal_finite_differences(up, down, padding, flip, seed):
    assume(leaves_output((3, 4), (3, 2), up, padding))
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=g, requires_grad=True)
    f = torch.randn(3, 2, dtype=torch.float64, generator=g, requires_grad=True)

    def operator(x, f):
        return upfirdn2d(x, f, up, down, padding, flip, 1.7)

    for filter_ in (f, f.detach()):  # A learned filter, and a constant one as in the networks.
        assert gradcheck(operator, (x, filter_))
        assert gradgradcheck(operator, (x, filter_))


@settings(deadline=None, max_examples=60)
@given(sizes, st.integers(1, 5), factors, factors, paddings, st.booleans(), seeds)
def test_derivative_is_the_adjoint(size, taps, up, down, padding, flip, seed):
    """<A x, y> = <x, A' y>, where A' is the map that backward applies."""
    assume(leaves_output(size, (taps, taps), up, padding))
    g = torch.Generator().manual_seed(seed)
    x0 = torch.zeros(1, 2, *size, dtype=torch.float64, requires_grad=True)
    f = torch.randn(taps, taps, dtype=torch.float64, generator=g)
    ax0 = upfirdn2d(x0, f, up, down, padding, flip)
    y = torch.randn(ax0.shape, dtype=torch.float64, generator=g)
    (adjoint,) = torch.autograd.grad(ax0, x0, y)
    x = torch.randn(x0.shape, dtype=torch.float64, generator=g)
    ax = by_definition(x.numpy(), f.numpy(), up, down, padding, flip, 1.0)
    assert float((adjoint * x).sum()) == pytest.approx(float((ax * y.numpy()).sum()), rel=1e-9, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.1, 4), min_size=1, max_size=6))
def test_a_filter_has_unit_sum_and_is_the_outer_product(taps):
    f = setup_filter(taps)
    t = np.array(taps) / np.sum(taps)
    assert f.dtype == torch.float32
    assert f.sum().item() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(f.numpy(), np.outer(t, t), rtol=1e-5)
    np.testing.assert_allclose(setup_filter(np.outer(taps, taps).tolist()).numpy(), f.numpy(), rtol=1e-5)


def test_the_default_filter_is_that_of_the_paper():
    np.testing.assert_array_equal(setup_filter().numpy(), np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.1, 3), min_size=1, max_size=4), st.floats(-5, 5), st.booleans())
def test_resampling_keeps_a_constant_image_away_from_the_borders(taps, value, upward):
    """Any filter can downsample. A filter that upsamples must contain a box, so that both phases have the same sum."""
    f = setup_filter(np.convolve(taps, [1, 1]).tolist() if upward else taps).double()
    y = (upsample2d if upward else downsample2d)(torch.full((1, 2, 12, 16), value, dtype=torch.float64), f)
    assert y.shape == ((1, 2, 24, 32) if upward else (1, 2, 6, 8))
    margin = 6 if upward else 2
    inner = y[:, :, margin:-margin, margin:-margin]
    torch.testing.assert_close(inner, torch.full_like(inner, value), rtol=1e-6, atol=1e-9)


def test_upsample_and_downsample_place_pixels_as_stylegan2_does(rng):
    x, f = rng.normal(size=(1, 2, 6, 8)), rng.normal(size=(4, 4))
    up = upsample2d(torch.from_numpy(x), torch.from_numpy(f)).numpy()
    down = downsample2d(torch.from_numpy(x), torch.from_numpy(f)).numpy()
    assert_close(up, by_definition(x, f, (2, 2), (1, 1), (2, 1, 2, 1), False, 4.0), 1e-10)
    assert_close(down, by_definition(x, f, (1, 1), (2, 2), (1, 1, 1, 1), False, 1.0), 1e-10)


@settings(deadline=None, max_examples=60)
@given(sizes, st.integers(1, 5), st.integers(1, 5), factors, paddings)
def test_a_padding_is_refused_exactly_if_it_leaves_no_output(size, fh, fw, up, padding):
    x, f = torch.ones(1, 1, *size), torch.ones(fh, fw)
    if leaves_output(size, (fh, fw), up, padding):
        assert upfirdn2d(x, f, up, 1, padding).numel() > 0
    else:
        with pytest.raises(ValueError, match="smaller than the"):
            upfirdn2d(x, f, up, 1, padding)


@pytest.mark.parametrize(
    ("shape", "taps", "arguments", "message"),
    [
        ((3, 8, 8), (4, 4), {}, r"\[N, C, H, W\]"),
        ((1, 3, 8, 8, 1), (4, 4), {}, r"\[N, C, H, W\]"),
        ((1, 3, 8, 8), (4,), {}, r"\[fh, fw\]"),
        ((1, 3, 8, 8), (4, 4), {"up": 0}, "must be at least 1"),
        ((1, 3, 8, 8), (4, 4), {"down": (1, -1)}, "must be at least 1"),
        ((1, 3, 8, 8), (4, 4), {"padding": (1, 2, 3)}, "padding"),
    ],
)
def test_wrong_shapes_and_factors_are_refused(shape, taps, arguments, message):
    with pytest.raises(ValueError, match=message):
        upfirdn2d(torch.ones(shape), torch.ones(taps), **arguments)


@pytest.mark.parametrize("taps", [[], [[]], np.ones((2, 2, 2)).tolist()])
def test_filters_without_taps_or_with_too_many_dimensions_are_refused(taps):
    with pytest.raises(ValueError, match="FIR filter"):
        setup_filter(taps)
