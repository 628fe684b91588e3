"""The CUDA side of the custom ops, called on CPU tensors: the glue between PyTorch and the kernels, in the interpreter."""

import pytest
import torch

from stylert.plugins import ops
from stylert.plugins.bias_act import bias_act
from stylert.plugins.kernels.tiles import Tile
from stylert.plugins.modulated_conv2d import modulated_conv2d
from stylert.plugins.upfirdn2d import setup_filter, upfirdn2d


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("noise_shape", [(), (1, 1), (2, 1, 1, 1), (8, 1)], ids=str)
def test_modulated_conv2d_reaches_its_kernel_with_every_operand(rng, up, noise_shape, assert_parity):
    f = setup_filter()
    shapes = [(2, 5, 8 // up, 3), (4, 5, 3, 3), (2, 5), (2, 4), noise_shape, (4,)]
    operands = [
        torch.from_numpy(rng.standard_normal(shape)) if shape else torch.tensor(rng.standard_normal()) for shape in shapes
    ]
    y = ops._modulated_conv2d_cuda(ops._Layer(operands[0].float(), *operands[1:], f, up, "lrelu", None, 2.0))
    assert y.is_contiguous(memory_format=torch.channels_last)
    reference, unclamped = (
        modulated_conv2d(*operands, up=up, f=f.double(), activation="lrelu", clamp=clamp) for clamp in (2.0, None)
    )
    assert_parity(y, reference, torch.float32, unclamped=unclamped)


def test_an_op_whose_tile_is_split_brings_the_workspace(rng, monkeypatch, assert_parity):
    monkeypatch.setattr("stylert.plugins.kernels.tiles.choose_tile", lambda problem: Tile(16, 16, 16, splits=3))
    x, weight, style = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((2, 20, 4, 4), (6, 20, 3, 3), (2, 20)))
    y = ops._modulated_conv2d_cuda(ops._Layer(x.float(), weight, style, None, None, None, None, 1, "linear", None, None))
    assert_parity(y, modulated_conv2d(x, weight, style), torch.float32)


def test_upfirdn2d_reaches_its_kernel_and_keeps_the_layout(rng, assert_parity):
    f = setup_filter()
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.from_numpy(rng.standard_normal((2, 3, 5, 4))).float().contiguous(memory_format=layout)
        y = ops._upfirdn2d_cuda(ops._Resampling(x, f.t(), [2, 1], [1, 2], [2, 1, 1, 1], False, 4.0))
        assert y.is_contiguous(memory_format=layout)
        assert_parity(y, upfirdn2d(x.double(), f.double(), (2, 1), (1, 2), [2, 1, 1, 1], gain=4.0), torch.float32)


@pytest.mark.parametrize("shape", [(3, 5), (2, 3, 4), (2, 3, 5, 4)], ids=str)
def test_bias_act_and_its_gradient_reach_their_kernel(rng, shape, assert_parity):
    for layout in (torch.contiguous_format, torch.channels_last)[: 2 if len(shape) == 4 else 1]:
        x = torch.from_numpy(rng.standard_normal(shape)).float().contiguous(memory_format=layout)
        b, dy = torch.from_numpy(rng.standard_normal(shape[1])), torch.from_numpy(rng.standard_normal(shape)).float()
        exact = x.double().requires_grad_()
        reference = bias_act(exact, b, activation="lrelu", clamp=1.0)
        y = ops._bias_act_cuda(ops._BiasAct(x, b, "lrelu", None, 1.0))
        dx = ops._bias_act_cuda(ops._BiasActGradient(x, b, dy, "lrelu", None, 1.0))
        assert_parity(y, reference.detach(), torch.float32)
        assert_parity(dx, torch.autograd.grad(reference, exact, dy.double())[0], torch.float32)
        assert y.stride() == dx.stride() == x.stride()


def test_float64_takes_the_reference(rng):
    x, f = torch.from_numpy(rng.standard_normal((1, 2, 4, 4))), setup_filter().double()
    call = ops._Resampling(x, f, [1, 1], [1, 1], [1, 1, 1, 1], False, 1.0)
    assert torch.equal(ops._upfirdn2d_cuda(call), upfirdn2d(x, f, padding=1))
    w, s = torch.from_numpy(rng.standard_normal((3, 2, 3, 3))), torch.ones(1, 2).double()
    y = ops._modulated_conv2d_cuda(ops._Layer(x, w, s, None, None, None, None, 1, "linear", None, None))
    assert torch.equal(y, modulated_conv2d(x, w, s))
