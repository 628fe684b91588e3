"""The bias_act kernels equal the float64 reference and its autograd, in the interpreter."""

import pytest
import torch

from stylert.plugins.reference.bias_act import bias_act
from stylert.plugins.shapes import Epilogue
from stylert.plugins.triton.bias_act import bias_act_gradient_into, bias_act_into


def random_case(rng, dtype, layout):
    shape = tuple(int(v) for v in rng.integers([1, 1, 1, 1], [6, 20, 12, 12]))
    x = torch.from_numpy(rng.standard_normal(shape)).to(dtype).contiguous(memory_format=layout)
    b = torch.from_numpy(rng.standard_normal(shape[1])).float() if rng.integers(3) else None
    attributes = {
        "activation": str(rng.choice(["linear", "lrelu"])),
        "gain": [None, float(rng.uniform(0.5, 2))][int(rng.integers(2))],
        "clamp": [None, 1.0][int(rng.integers(2))],
    }
    channel_stride = 1 if layout == torch.channels_last else shape[2] * shape[3]
    return x, b, attributes, channel_stride


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_forward_and_gradient_match_the_reference(rng, dtype, layout, assert_parity):
    for _ in range(4):
        x, b, attributes, channel_stride = random_case(rng, dtype, layout)
        epilogue = Epilogue.of(**attributes)
        exact = x.double().requires_grad_()
        reference = bias_act(exact, None if b is None else b.double(), **attributes)
        y = torch.full_like(x, float("nan"))
        bias_act_into(y, x, b, epilogue, channel_stride=channel_stride)
        assert_parity(y, reference.detach(), dtype, (attributes, x.shape))

        dy = torch.from_numpy(rng.standard_normal(x.shape)).to(dtype).contiguous(memory_format=layout)
        dx = torch.full_like(x, float("nan"))
        bias_act_gradient_into(dx, y, dy, epilogue)
        (expected,) = torch.autograd.grad(reference, exact, dy.double())
        # A result near the clamp may be rounded to it, and then counts as clamped.
        beside = (reference.detach().abs() - (epilogue.clamp or 1e9)).abs() < torch.finfo(dtype).eps
        assert_parity(torch.where(beside, expected.to(dtype), dx), expected, dtype, (attributes, x.shape))


@pytest.mark.parametrize("clamp", [0.1, 256 * 0.5**0.5])
def test_a_clamped_value_has_no_gradient_even_if_the_bound_is_rounded(dtype, clamp):
    epilogue = Epilogue.of("lrelu", 1.0, clamp)
    x = torch.tensor([[[[10 * clamp, -10 * clamp, 0.5 * clamp, -0.5 * clamp]]]]).to(dtype)
    y, dx = torch.zeros_like(x), torch.zeros_like(x)
    bias_act_into(y, x, None, epilogue, channel_stride=4)
    bias_act_gradient_into(dx, y, torch.ones_like(x), epilogue)
    assert dx.flatten().tolist() == [0, 0, 1, pytest.approx(0.2, rel=0.01)]


def test_a_nan_passes_through_the_clamp():
    x = torch.tensor([[[[float("nan"), 9.0, -9.0]]]])
    y = torch.zeros_like(x)
    bias_act_into(y, x, None, Epilogue.of("lrelu", 1.0, 1.0), channel_stride=3)
    assert y[0, 0, 0, 0].isnan()
    assert y[0, 0, 0, 1:].tolist() == [1.0, -1.0]


def test_operands_that_do_not_fit_are_refused():
    x, epilogue = torch.zeros(2, 3, 4, 4), Epilogue()
    wrong = [
        (torch.empty(2, 3, 4, 5), x, None, epilogue, 16),
        (torch.empty(2, 3, 4, 4).half(), x, None, epilogue, 16),
        (torch.empty(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), x, None, epilogue, 16),
        (torch.empty(2, 3, 4, 4), x, torch.zeros(4), epilogue, 16),
        (torch.empty(2, 3, 4, 4), x, torch.zeros(3).double(), epilogue, 16),
        (torch.empty(2, 3, 4, 4), x, None, epilogue, 0),
        (x.double(), x.double(), None, epilogue, 16),
    ]
    for y, x_, b, tail_, channel_stride in wrong:
        with pytest.raises(ValueError, match="bias_act"):
            bias_act_into(y, x_, b, tail_, channel_stride=channel_stride)
    for dx, y, dy in [(x, x, torch.zeros(2, 3, 4)), (x[:1], x, x), (x.half(), x, x), (x.double(),) * 3]:
        with pytest.raises(ValueError, match="bias_act"):
            bias_act_gradient_into(dx, y, dy, epilogue)


@pytest.mark.parametrize(
    "attributes",
    [
        {"activation": "relu"}, {"activation": ""}, {"clamp": 0.0}, {"clamp": -1.0}, {"clamp": float("nan")},
        {"clamp": float("inf")}, {"gain": float("nan")}, {"gain": float("inf")},
        {"gain": 0.0}, {"gain": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_bad_attributes_are_refused(attributes):
    with pytest.raises(ValueError, match="must be"):
        Epilogue.of(**attributes)
