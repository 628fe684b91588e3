"""The phase kernels of `fold` compute zero insertion, convolution and FIR."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stylert.plugins.fir_folding import fold
from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
from stylert.plugins.reference.upfirdn2d import setup_filter


@pytest.mark.parametrize("ksize", [1, 3, 5])
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 6])
def test_four_phases_interleaved_are_the_upsampling_layer(rng, ksize, taps):
    n, i, o, h, w = (int(v) for v in rng.integers(1, 6, 5))
    x, weight, f = (torch.from_numpy(rng.standard_normal(s)) for s in ((n, i, h, w), (o, i, ksize, ksize), (taps, taps)))
    phases = fold(weight, f)
    y = torch.full((n, o, 2 * h, 2 * w), float("nan"), dtype=torch.float64)
    for r in range(2):
        for s in range(2):
            y[:, :, r::2, s::2] = F.conv2d(x, phases[2 * r + s], padding=phases.shape[-1] // 2)
    expected = modulated_conv2d(x, weight, torch.ones(n, i, dtype=torch.float64), up=2, f=f)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_the_phases_of_stylegan2_are_3x3_and_have_no_zero(rng):
    weight = torch.from_numpy(rng.uniform(0.5, 1, (2, 3, 3, 3)))
    phases = fold(weight, setup_filter())
    assert phases.shape == (4, 2, 3, 3, 3)
    assert (phases > 0).all()


def test_folding_is_linear_and_differentiable(rng):
    weight = torch.from_numpy(rng.standard_normal((2, 1, 3, 3))).requires_grad_()
    f = setup_filter().double()
    assert torch.autograd.gradcheck(lambda w: fold(w, f), weight)
    a = float(rng.uniform(-2, 2))
    torch.testing.assert_close(fold(a * weight, f), a * fold(weight, f))


@pytest.mark.parametrize(
    ("weight", "f"), [((1, 1, 2, 2), (4, 4)), ((1, 1, 3, 1), (4, 4)), ((1, 3, 3), (4, 4)), ((1, 1, 3, 3), (4, 3))]
)
def test_kernels_and_filters_that_are_not_square_and_odd_are_refused(weight, f):
    with pytest.raises(ValueError, match="fold"):
        fold(torch.from_numpy(np.ones(weight)), torch.from_numpy(np.ones(f)))
