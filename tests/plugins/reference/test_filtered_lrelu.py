"""The reference FilteredLrelu equals SciPy in float64 and can be differentiated twice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.autograd import gradcheck, gradgradcheck

from stylert.plugins.reference.filtered_lrelu import filtered_lrelu
from tests.draws import fresh
from tests.plugins.filtered_lrelu_cases import Call, by_scipy, calls


def run(call: Call, dtype: torch.dtype) -> torch.Tensor:
    x, b, fu, fd = (torch.from_numpy(a).to(dtype) for a in call.inputs.values())
    return filtered_lrelu(
        x,
        b,
        fu,
        fd,
        up=call.up,
        down=call.down,
        padding=call.padding,
        slope=call.slope,
        gain=call.gain,
        clamp=call.clamp or None,
    )


@settings(max_examples=200)
@given(calls)
def test_it_equals_scipy_for_separable_and_other_filters(call: Call) -> None:
    expected = by_scipy(call)
    scale = max(np.abs(expected).max(), 1e-3)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        y = run(call, dtype)
        assert y.dtype == dtype
        assert y.shape == expected.shape
        assert np.abs(y.double().numpy() - expected).max() <= tolerance * scale


def test_without_filters_it_is_bias_activation_gain_and_clamp() -> None:
    x, b = torch.randn(2, 3, 4, 5), torch.randn(3)
    y = filtered_lrelu(x, b, slope=0.1, gain=2.0, clamp=1.0)
    assert torch.equal(y, (torch.nn.functional.leaky_relu(x + b[:, None, None], 0.1) * 2).clamp(-1, 1))
    assert torch.equal(filtered_lrelu(x, slope=1.0, gain=1.0), x)
    zeros = filtered_lrelu(x, up=2, slope=1.0, gain=1.0)
    assert torch.equal(zeros[:, :, ::2, ::2], 4 * x)
    assert zeros.count_nonzero() == x.count_nonzero()


def test_a_separable_filter_is_its_outer_product() -> None:
    x, b, fu, fd = torch.randn(1, 2, 6, 5).double(), torch.randn(2), torch.randn(6), torch.randn(4)
    options: dict[str, Any] = {"up": (2, 3), "down": (3, 2), "padding": (5, 4, 7, 3)}
    y = filtered_lrelu(x, b, fu, fd, **options)
    whole = filtered_lrelu(x, b, torch.outer(fu.double(), fu.double()), torch.outer(fd.double(), fd.double()), **options)
    torch.testing.assert_close(y, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("clamp", [None, 1.2])
@pytest.mark.parametrize("shape", [(3,), (3, 2)])
def test_first_and_second_derivatives_equal_finite_differences(shape: tuple[int, ...], clamp: float | None) -> None:
    """Far from the kinks: a point at which a value lies within the step of the differences is drawn again."""
    rng = fresh()
    fu, fd = torch.from_numpy(rng.standard_normal(shape)), torch.from_numpy(rng.standard_normal(shape[::-1]))
    b = torch.from_numpy(rng.standard_normal(2))
    options: dict[str, Any] = {"up": (2, 1), "down": (1, 2), "padding": (2, 1, -1, 3), "slope": 0.2, "gain": 1.3}
    inner = {**options, "down": 1}

    def far_from_kinks(x: torch.Tensor) -> bool:
        values = filtered_lrelu(x, b, fu, **inner).abs()
        values = values[values > 0]  # zeros of the padding stay zero
        return bool((values > 1e-4).all() and (clamp is None or ((values - clamp).abs() > 1e-4).all()))

    x = torch.from_numpy(rng.standard_normal((1, 2, 3, 4)))
    while not far_from_kinks(x):
        x = torch.from_numpy(rng.standard_normal((1, 2, 3, 4)))
    operands = (x.requires_grad_(), b.requires_grad_())

    def function(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return filtered_lrelu(x, b, fu, fd, clamp=clamp, **options)

    def squared(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return function(x, b).square()  # the function alone is piecewise linear: its second derivative is zero

    assert gradcheck(function, operands)
    assert gradgradcheck(squared, operands)


@pytest.mark.parametrize(
    ("operands", "options", "message"),
    [
        ({}, {"up": 0}, "filtered_lrelu: up and down must be at least 1"),
        ({}, {"down": (1, 0)}, "filtered_lrelu: up and down must be at least 1"),
        ({}, {"padding": (1, 2, 3)}, "filtered_lrelu: padding has"),
        ({}, {"padding": -3}, "leaves no output"),
        ({"fu": torch.ones(4), "fd": torch.ones(3, 1)}, {}, "leaves no output"),
        ({"fu": torch.ones(2, 2, 2)}, {}, r"a filter is \[t\] or \[fh, fw\]"),
        ({"fd": torch.ones(0)}, {}, "leaves no output"),
        ({"b": torch.ones(3)}, {}, "bias"),
        ({"x": torch.ones(2, 5, 5)}, {}, "takes x"),
        ({}, {"gain": 0.0}, "gain must be positive"),
        ({}, {"slope": math.nan}, "slope"),
        ({}, {"clamp": 0.0}, "clamp must be positive"),
        ({}, {"clamp": math.inf}, "clamp must be finite"),
        ({"fu": torch.ones(2, requires_grad=True)}, {}, "have no gradient"),
    ],
)
def test_wrong_arguments_are_refused(operands: dict[str, Any], options: dict[str, Any], message: str) -> None:
    arguments = {"x": torch.ones(1, 2, 5, 5), "b": torch.ones(2), "fu": None, "fd": None, **operands}
    with pytest.raises(ValueError, match=message):
        filtered_lrelu(**arguments, **options)
