"""The custom ops meet PyTorch's rules for an op, have right derivatives to second order, and work under torch.compile.

The inputs are float64, which the kernels do not serve. So the ops compute with the references here.
"""

from types import SimpleNamespace

import pytest
import torch

from stylert.plugins import ops
from stylert.plugins.custom_ops.define import has_kernels
from stylert.plugins.reference import bias_act as bias_act_reference
from stylert.plugins.reference import modulated_conv2d as conv_reference
from stylert.plugins.reference import upfirdn2d as fir_reference

FIR = fir_reference.setup_filter().double()


@pytest.fixture(autouse=True)
def custom_ops(request, monkeypatch):
    """`ops` calls the custom ops, as on CUDA. The ops themselves still see that no kernel serves float64."""
    monkeypatch.setattr(ops, "has_kernels", lambda x: True)


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape)).requires_grad_()


def layer_operands(rng, up):
    """x, weight, style, noise and bias of a small layer, all with gradients."""
    n, i, o, h, w = 2, 2, 3, int(rng.integers(2, 5)), int(rng.integers(2, 5))
    return draw(rng, n, i, h, w), draw(rng, o, i, 3, 3), draw(rng, n, i), draw(rng, 1, 1, h * up, w * up), draw(rng, o)


def layer(module, up, clamp=4.0):
    """A function that computes the layer as a network does: demod follows from weight and style."""

    def run(x, weight, style, noise, bias):
        demod = conv_reference.demodulation(weight, style)
        return module.modulated_conv2d(
            x, weight, style, demod, noise, bias, up=up, f=FIR if up == 2 else None, activation="lrelu", clamp=clamp
        )

    return run


@pytest.mark.parametrize(
    ("dtype", "device", "capability", "switch", "expected"),
    [
        (torch.float16, "cuda", (8, 0), None, True),
        (torch.bfloat16, "cuda:1", (12, 0), "1", True),
        (torch.float32, "cuda", (9, 0), None, True),
        (torch.float64, "cuda", (9, 0), None, False),
        (torch.float32, "cuda", (7, 5), None, False),  # Triton's matrix products need Ampere.
        (torch.float32, "cuda", (9, 0), "0", False),
        (torch.float32, "cuda", None, None, False),
        (torch.float32, "cpu", (9, 0), None, False),
        (torch.float32, "meta", (9, 0), None, False),
    ],
    ids=str,
)
def test_kernels_serve_half_and_single_precision_on_cuda_from_capability_8(
    monkeypatch, dtype, device, capability, switch, expected
):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("STYLERT_KERNELS", raising=False)
    if switch is not None:
        monkeypatch.setenv("STYLERT_KERNELS", switch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_kernels(SimpleNamespace(dtype=dtype, device=torch.device(device))) is expected


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_upfirdn2d_passes_opcheck(rng, layout):
    x = draw(rng, 2, 3, 5, 6).detach().contiguous(memory_format=layout).requires_grad_()
    up, down = ([int(v) for v in rng.integers(1, 4, 2)] for _ in range(2))
    torch.library.opcheck(torch.ops.stylert.upfirdn2d.default, (x, FIR, up, down, [2, 1, 3, -1], False, 2.0))


def test_modulated_conv2d_passes_opcheck(rng):
    x, weight, style, noise, bias = layer_operands(rng, 2)
    demod = draw(rng, 2, 3)
    torch.library.opcheck(
        torch.ops.stylert.modulated_conv2d.default, (x, weight, style, demod, noise, bias, FIR, 2, "lrelu", None, 1.0)
    )
    torch.library.opcheck(
        torch.ops.stylert.modulated_conv2d.default, (x, weight, style, None, None, None, None, 1, "linear", 0.5, None)
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_bias_act_and_its_gradient_pass_opcheck(rng, layout):
    x, dy = (draw(rng, 2, 3, 4, 5).detach().contiguous(memory_format=layout).requires_grad_() for _ in range(2))
    b = draw(rng, 3)
    torch.library.opcheck(torch.ops.stylert.bias_act.default, (x, b, "lrelu", None, 1.0))
    torch.library.opcheck(torch.ops.stylert.bias_act.default, (x, None, "linear", None, None))
    torch.library.opcheck(torch.ops.stylert.bias_act_gradient.default, (x.detach(), dy, "lrelu", 2.0, 1.0))


@pytest.mark.parametrize(
    "attributes", [{}, {"activation": "lrelu"}, {"activation": "lrelu", "gain": 0.7, "clamp": 0.9}], ids=str
)
def test_bias_act_is_right_to_second_order(rng, attributes):
    x, b = draw(rng, 2, 3, 4, 2), draw(rng, 3)

    def run(x, b):
        return ops.bias_act(x, b, **attributes)

    assert torch.equal(run(x, b), bias_act_reference.bias_act(x, b, **attributes))
    assert torch.equal(ops.bias_act(x, **attributes), bias_act_reference.bias_act(x, **attributes))
    # Finite differences are wrong at a kink, so values near one are moved away.
    with torch.no_grad():
        y = bias_act_reference.bias_act(x, b, **{**attributes, "clamp": None})
        near = (y.abs() < 1e-2) | ((y.abs() - attributes.get("clamp", 1e9)).abs() < 1e-2)
        x += 0.05 * near
    assert torch.autograd.gradcheck(run, (x, b))
    assert torch.autograd.gradgradcheck(run, (x, b))


def test_bias_act_has_the_gradients_of_the_reference(rng):
    x, b = draw(rng, 2, 3, 4, 5), draw(rng, 3)
    results = []
    for module in (ops, bias_act_reference):
        y = module.bias_act(x, b, activation="lrelu", clamp=1.0)
        first = torch.autograd.grad(y.pow(3).sum(), (x, b), create_graph=True)
        results.append((y, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), (x, b))))
    for result, reference in zip(*results, strict=True):
        torch.testing.assert_close(result, reference)


def test_wrong_bias_act_calls_are_refused(rng):
    x = draw(rng, 2, 3, 4, 4)
    for positional, named in [
        ((x[0, 0, 0],), {}), ((x.long(),), {}), ((x, draw(rng, 4)), {}), ((x, draw(rng, 3, 1)), {}), ((x, torch.ones(3).long()), {}),
        ((x,), {"activation": "relu"}), ((x,), {"gain": 0.0}), ((x,), {"clamp": -1.0}),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=r"bias_act|must be"):
            ops.bias_act(*positional, **named)


def test_upfirdn2d_is_right_to_second_order(rng):
    x = draw(rng, 1, 2, 5, 4)  # Large enough for the filter after a crop of one pixel on each side.
    f = draw(rng, 3, 2).detach()
    for _ in range(3):
        up, down = ([int(v) for v in rng.integers(1, 4, 2)] for _ in range(2))
        padding = [int(v) for v in rng.integers(-1, 4, 4)]

        def run(x, up=up, down=down, padding=padding):
            return ops.upfirdn2d(x, f, up, down, padding, gain=1.5)

        assert torch.equal(run(x), fir_reference.upfirdn2d(x, f, up, down, padding, gain=1.5))
        assert torch.autograd.gradcheck(run, x, fast_mode=True)
        assert torch.autograd.gradgradcheck(run, x, fast_mode=True)


@pytest.mark.parametrize("up", [1, 2])
def test_modulated_conv2d_has_the_gradients_of_the_reference_to_second_order(rng, up):
    operands = layer_operands(rng, up)
    weights = torch.from_numpy(rng.standard_normal(layer(conv_reference, up)(*operands).shape))

    def twice(run):
        y = run(*operands)
        first = torch.autograd.grad((y * weights).sum(), operands, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), operands, materialize_grads=True)
        return y, *first, *second

    for result, reference in zip(twice(layer(ops, up)), twice(layer(conv_reference, up)), strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-10, atol=1e-10)


def test_a_single_gradient_can_be_computed_alone(rng):
    x, weight, style, _, bias = (t.detach() for t in layer_operands(rng, 1))
    style.requires_grad_()
    y = ops.modulated_conv2d(x, weight, style, bias=bias)
    (grad,) = torch.autograd.grad(y.sum(), style)
    (expected,) = torch.autograd.grad(conv_reference.modulated_conv2d(x, weight, style, bias=bias).sum(), style)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile_takes_a_layer_and_its_backward_pass_as_one_graph(rng, backend):
    operands = layer_operands(rng, 2)

    def network(*operands):
        y = ops.upfirdn2d(layer(ops, 2)(*operands) * 2, FIR, down=2, padding=1)
        return ops.bias_act(y, operands[-1], activation="lrelu")

    torch._dynamo.reset()
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    results = []
    for run in (compiled, network):
        y = run(*operands)
        results.append((y, *torch.autograd.grad(y.square().sum(), operands)))
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected)


def test_results_keep_the_layout_of_the_input(rng):
    for layout in (torch.contiguous_format, torch.channels_last):
        x = draw(rng, 2, 4, 5, 6).contiguous(memory_format=layout)
        for y in (
            ops.upfirdn2d(x, FIR, up=2, down=3, padding=3),
            ops.modulated_conv2d(x, draw(rng, 3, 4, 3, 3), draw(rng, 2, 4), up=2, f=FIR),
        ):
            assert y.is_contiguous(memory_format=layout)


def test_wrong_upfirdn2d_calls_are_refused(rng):
    x = draw(rng, 1, 2, 4, 4)
    wrong = [
        ((x[0], FIR), {}), ((x, FIR[0]), {}), ((x.long(), FIR), {}), ((x, FIR), {"up": 0}), ((x, FIR), {"down": (1, 0)}),
        ((x, FIR), {"padding": (1, 2, 3)}), ((x, FIR), {"padding": -1}), ((x, FIR), {"up": 1.5}),
        ((x, FIR), {"gain": float("nan")}), ((x, draw(rng, 4, 4)), {}),
    ]  # fmt: skip
    for positional, named in wrong:
        with pytest.raises(ValueError, match="upfirdn2d"):
            ops.upfirdn2d(*positional, **named)


def test_wrong_modulated_conv2d_calls_are_refused(rng):
    x, weight, style = draw(rng, 2, 3, 4, 4), draw(rng, 5, 3, 3, 3), draw(rng, 2, 3)
    good = {"x": x, "weight": weight, "style": style}
    wrong = [
        {"up": 3}, {"up": 0}, {"up": 2}, {"up": 2, "f": FIR[:3]}, {"up": 2, "f": FIR[0]}, {"up": 2, "f": draw(rng, 4, 4)},
        {"activation": "relu"}, {"gain": 0.0}, {"gain": float("nan")}, {"clamp": 0.0}, {"clamp": -1.0},
        {"x": x[0]}, {"weight": weight[0]}, {"weight": draw(rng, 5, 3, 2, 2)}, {"weight": draw(rng, 5, 3, 3, 1)},
        {"weight": draw(rng, 5, 4, 3, 3)}, {"style": draw(rng, 1, 3)}, {"style": style.long()},
        {"demod": draw(rng, 2, 3)}, {"bias": draw(rng, 3)}, {"bias": draw(rng, 1)},
        {"noise": draw(rng, 2, 5, 4, 4)}, {"noise": draw(rng, 8, 8)}, {"noise": draw(rng, 3, 1, 4, 4)},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(ValueError, match=r"modulated_conv2d|must be"):
            ops.modulated_conv2d(**{**good, **change})
