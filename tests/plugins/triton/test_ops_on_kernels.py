"""The custom ops run the kernels in the interpreter, and have right derivatives to second order."""

import pytest
import torch

from stylert.plugins import ops
from stylert.plugins.custom_ops import modulated_conv2d as modulated_conv2d_op
from stylert.plugins.custom_ops.define import has_kernels
from stylert.plugins.reference.bias_act import bias_act
from stylert.plugins.reference.modulated_conv2d import demodulation, modulated_conv2d
from stylert.plugins.reference.upfirdn2d import setup_filter, upfirdn2d
from stylert.plugins.triton.tiles import Tile

FIR = setup_filter()
SLOPE = 0.2


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape))


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("noise_shape", [(), (1, 1), (2, 1, 1, 1), (8, 1)], ids=str)
def test_modulated_conv2d_passes_every_operand_to_its_kernel(rng, up, noise_shape, assert_parity):
    shapes = [(2, 5, 8 // up, 3), (4, 5, 3, 3), (2, 5), (2, 4), noise_shape, (4,)]
    operands = [draw(rng, *shape) if shape else torch.tensor(rng.standard_normal()) for shape in shapes]
    y = ops.modulated_conv2d(operands[0].float(), *operands[1:], up=up, f=FIR, activation="lrelu", clamp=2.0)
    assert y.is_contiguous(memory_format=torch.channels_last)
    reference, unclamped = (
        modulated_conv2d(*operands, up=up, f=FIR.double(), activation="lrelu", clamp=clamp) for clamp in (2.0, None)
    )
    assert_parity(y, reference, torch.float32, unclamped=unclamped)


def test_an_op_with_a_split_sum_allocates_the_workspace(rng, monkeypatch, assert_parity):
    monkeypatch.setattr("stylert.plugins.triton.tiles.choose_tile", lambda problem: Tile(16, 16, 16, splits=3))
    x, weight, style = (draw(rng, *shape) for shape in ((2, 20, 4, 4), (6, 20, 3, 3), (2, 20)))
    y = ops.modulated_conv2d(x.float(), weight, style)
    assert_parity(y, modulated_conv2d(x, weight, style), torch.float32)


def test_upfirdn2d_runs_its_kernel_and_keeps_the_layout(rng, assert_parity):
    for layout in (torch.contiguous_format, torch.channels_last):
        x = draw(rng, 2, 3, 5, 4).float().contiguous(memory_format=layout)
        y = ops.upfirdn2d(x, FIR.t(), [2, 1], [1, 2], [2, 1, 1, 1], False, 4.0)
        assert y.is_contiguous(memory_format=layout)
        assert_parity(y, upfirdn2d(x.double(), FIR.double(), (2, 1), (1, 2), [2, 1, 1, 1], gain=4.0), torch.float32)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4), (2, 3, 5, 4)], ids=str)
def test_bias_act_and_its_gradients_run_their_kernels(rng, shape, assert_parity):
    for layout in (torch.contiguous_format, torch.channels_last)[: 2 if len(shape) == 4 else 1]:
        x = draw(rng, *shape).float().contiguous(memory_format=layout).requires_grad_()
        b, dy, ddx = draw(rng, shape[1]).requires_grad_(), draw(rng, *shape), draw(rng, *shape)
        exact, b_exact = (t.detach().double().requires_grad_() for t in (x, b))
        reference = bias_act(exact, b_exact, activation="lrelu", clamp=1.0)
        y = ops.bias_act(x, b, activation="lrelu", clamp=1.0)
        assert_parity(y.detach(), reference.detach(), torch.float32)
        dy, dy_exact = dy.float().requires_grad_(), dy.clone().requires_grad_()
        grads, expected = (
            torch.autograd.grad(y_, (x_, b_), dy_, create_graph=True)
            for y_, x_, b_, dy_ in ((y, x, b, dy), (reference, exact, b_exact, dy_exact))
        )
        for grad, exact_grad in zip(grads, expected, strict=True):
            assert_parity(grad.detach(), exact_grad.detach(), torch.float32)
        ddy, ddy_exact = (torch.autograd.grad(g[0], d, ddx.to(g[0]))[0] for g, d in ((grads, dy), (expected, dy_exact)))
        assert_parity(ddy, ddy_exact, torch.float32)
        assert y.stride() == grads[0].stride() == x.stride()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("conv", torch.float32), ("conv", torch.float16), ("conv", torch.bfloat16), ("torgb", torch.float16),
        ("up", torch.float32), ("wide up", torch.float16),
    ],
    ids=str,
)  # fmt: skip
def test_the_derivatives_of_a_layer_are_those_of_the_reference_to_second_order(rng, kind, dtype, monkeypatch):
    """The float64 layer uses the slopes of the activation that the kernel had.

    Between the kinks of the activation a layer is linear after its modulation.
    """
    if kind == "wide up":
        monkeypatch.setattr(modulated_conv2d_op, "SEPARATE_UP_CHANNELS", 6)
    up, k = 2 if "up" in kind else 1, 1 if kind == "torgb" else 3
    n, i, o, side = 2, 6, 5, 3
    shapes = [(n, i, side, side), (o, i, k, k), (n, i), (1, 1, side * up, side * up), (o,)]
    x, weight, style, noise, bias = (draw(rng, *shape) for shape in shapes)
    x, clamp = x.to(dtype), 3.0
    attributes = {"activation": "linear" if kind == "torgb" else "lrelu", "clamp": clamp}

    def layer(function, x, weight, style, noise, bias, **attributes):
        if kind == "torgb":
            return function(x, weight, style, bias=bias, **attributes)
        f = FIR.to(weight.dtype) if up == 2 else None
        return function(x, weight, style, demodulation(weight, style), noise, bias, up=up, f=f, **attributes)

    def derivatives(function, operands, slopes, cotangent, probes):
        """The result, its gradients, and the gradients of a weighted sum of those."""
        operands = [t.detach().clone().requires_grad_() for t in operands]
        y = function(*operands)
        y = y if slopes is None else y * slopes
        wanted = [t for t, used in zip(operands, used_operands, strict=True) if used]
        first = torch.autograd.grad(y, wanted, cotangent.to(y.dtype), create_graph=True)
        total = sum((g * p.to(g.dtype)).sum() for g, p in zip(first, probes, strict=True))
        return [y, *first, *torch.autograd.grad(total, wanted, allow_unused=True)]

    operands = [x, *(t.float() for t in (weight, style, noise, bias))]
    used_operands = [True, True, True, kind != "torgb", True]
    y = layer(ops.modulated_conv2d, *operands, **attributes).detach()
    assert y.dtype == dtype
    gain = 1.0 if kind == "torgb" else 2**0.5
    slopes = torch.where(y > 0, 1.0, 1.0 if kind == "torgb" else SLOPE) * gain * (y.abs() < clamp)
    cotangent = draw(rng, *y.shape).to(dtype)
    probes = [draw(rng, *t.shape) for t, used in zip(operands, used_operands, strict=True) if used]
    # A bias has no second derivative with itself. A random weighted sum of all gradients has a gradient everywhere.
    results = derivatives(lambda *a: layer(ops.modulated_conv2d, *a, **attributes), operands, None, cotangent, probes)
    exact = derivatives(
        lambda *a: layer(modulated_conv2d, *a), [t.double() for t in operands], slopes.double(), cotangent.double(), probes
    )
    # Each value is a sum of a few hundred products of up to six rounded factors. Half precision also rounds every step
    # between. In the root mean square these errors add up as in a random walk.
    bound = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}[dtype]
    for a, b in zip(results[1:], exact[1:], strict=True):
        if b is None:
            assert a is None
            continue
        assert a.isfinite().all()
        assert (a.double() - b).square().mean().sqrt() <= bound * b.square().mean().sqrt() + 1e-9


@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (1, 1, 8, 8)], ids=str)
def test_the_ops_pass_opcheck_on_their_kernels(rng, shape):
    x, dy = (draw(rng, *shape).float().contiguous(memory_format=torch.channels_last).requires_grad_() for _ in range(2))
    channels = shape[1]
    weight, style = (
        draw(rng, 3, channels, 3, 3).float().requires_grad_(),
        draw(rng, shape[0], channels).float().requires_grad_(),
    )
    # opcheck's gradient test traces the op, and the interpreter cannot be traced. Another test compares the
    # derivatives.
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    calls = [
        (torch.ops.stylert.upfirdn2d, (x, FIR, [1, 1], [2, 2], [1, 1, 1, 1], False, 1.0)),
        (torch.ops.stylert.modulated_conv2d, (x, weight, style, None, None, None, FIR, 2, "lrelu", None, 1.0)),
        (torch.ops.stylert.bias_act, (x, draw(rng, channels).float().requires_grad_(), "lrelu", None, 1.0)),
        (torch.ops.stylert.bias_act_gradient, (x.detach(), dy, "lrelu", None, 1.0)),
    ]
    for op, arguments in calls:
        torch.library.opcheck(op.default, arguments, test_utils=checks)


def test_float64_takes_the_reference(rng):
    x, f = draw(rng, 1, 2, 4, 4), FIR.double()
    assert not has_kernels(x)
    assert torch.equal(torch.ops.stylert.upfirdn2d(x, f, [1, 1], [1, 1], [1, 1, 1, 1], False, 1.0), upfirdn2d(x, f, padding=1))
    w, s = draw(rng, 3, 2, 3, 3), torch.ones(1, 2).double()
    y = torch.ops.stylert.modulated_conv2d(x, w, s, None, None, None, None, 1, "linear", None, None)
    assert torch.equal(y, modulated_conv2d(x, w, s))


def test_on_a_cpu_the_functions_compute_the_references(rng, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    x, b = draw(rng, 2, 3, 4, 4).float().requires_grad_(), draw(rng, 3).float()
    assert not has_kernels(x)
    w, s = draw(rng, 3, 3, 3, 3).float(), draw(rng, 2, 3).float()
    for function, reference, arguments in (
        (ops.upfirdn2d, upfirdn2d, (x, FIR, 2, 1, 2)),
        (ops.modulated_conv2d, modulated_conv2d, (x, w, s)),
        (ops.bias_act, bias_act, (x, b)),
    ):
        y, expected = function(*arguments), reference(*arguments)
        assert torch.equal(y, expected)
        assert type(y.grad_fn) is type(expected.grad_fn)
