"""ModulatedConv2d with int8 weights equals integer arithmetic in NumPy, in the interpreter."""

import numpy as np
import pytest
import torch

from stylert.plugins.eight_bit import layer_operands, quantize_weight
from stylert.plugins.fir_folding import fold
from stylert.plugins.reference.modulated_conv2d import demodulation, modulated_conv2d
from stylert.plugins.reference.upfirdn2d import setup_filter
from stylert.plugins.shapes import Epilogue
from stylert.plugins.triton.modulated_conv2d import modulated_conv2d_into
from stylert.plugins.triton.tiles import Tile


def integer_product(x, style, weight):
    """`[N, H * up, W * up, O]` in int64: x `[N, H, W, I]` modulated and rounded, weight `[P, O, k, k, I]` int8."""
    q = np.rint(np.clip(x.astype(np.float32) * style[:, None, None, :], -127, 127)).astype(np.int64)
    phases, o, k, _, _ = weight.shape
    n, h, w, _ = x.shape
    up, r = int(phases**0.5), k // 2
    padded = np.pad(q, ((0, 0), (r, r), (r, r), (0, 0)))
    y = np.zeros((n, h * up, w * up, o), np.int64)
    for phase in range(phases):
        for ky in range(k):
            for kx in range(k):
                window, taps = padded[:, ky : ky + h, kx : kx + w], weight[phase, :, ky, kx].astype(np.int64)
                y[:, phase // up :: up, phase % up :: up] += np.einsum("nhwi,oi->nhwo", window, taps)
    return y


def draw(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def operands(rng, up, ksize=3):
    n, h, w, i, o = (int(v) for v in rng.integers([1, 1, 1, 1, 1], [4, 6, 6, 40, 20]))
    weight = rng.integers(-127, 128, (up * up, o, ksize, ksize, i)).astype(np.int8)
    x = draw(rng, n, h, w, i).astype([np.float16, np.float32][int(rng.integers(2))])
    # Some products are halves, and some are beyond the range of int8.
    style = rng.choice([0.5, 1.5, 40.0, 400.0], (n, i)).astype(np.float32)
    x[rng.random(x.shape) < 0.3] = 1.0
    return x, style, weight


@pytest.mark.parametrize(("up", "ksize"), [(1, 1), (1, 3), (2, 3)])
def test_the_sum_is_exact(rng, up, ksize):
    x, style, weight = operands(rng, up, ksize)
    exact = integer_product(x, style, weight)
    assert np.abs(exact).max() < 2**24  # float32 holds every integer up to here.
    y = torch.full(exact.shape, float("nan"), dtype=torch.float32)
    ones = torch.ones(x.shape[0], exact.shape[3])
    tile = Tile(int(rng.choice([16, 32])), 16, 32, splits=int(rng.choice([1, 3])))
    x32 = torch.from_numpy(x.astype(np.float32))
    work = torch.full((exact.size * 3,), 2**30, dtype=torch.int32)
    modulated_conv2d_into(
        y, x32, torch.from_numpy(weight), torch.from_numpy(style), ones, epilogue=Epilogue(), tile=tile, workspace=work
    )
    assert np.array_equal(y.numpy(), exact)


@pytest.mark.parametrize("up", [1, 2])
def test_the_whole_layer_matches_integers_and_a_float64_epilogue(rng, up):
    x, style, weight = operands(rng, up)
    exact = integer_product(x, style, weight).astype(np.float64)
    n, height, width, o = exact.shape
    demod, noise, bias = np.abs(draw(rng, n, o)) / 1000, draw(rng, n, height, width), draw(rng, o)
    v = exact * demod[:, None, None, :] + noise[..., None] + bias
    unclamped = 2**0.5 * np.where(v > 0, v, 0.2 * v)
    y = torch.full(exact.shape, float("nan"), dtype=torch.from_numpy(x).dtype)
    tensors = [torch.from_numpy(t) for t in (x, weight, style, demod, noise, bias)]
    modulated_conv2d_into(y, *tensors, epilogue=Epilogue.of("lrelu", clamp=3.0))
    assert torch.isfinite(y).all()
    bound = {torch.float32: 1e-5, torch.float16: 5e-3}[y.dtype] * np.abs(unclamped).max()
    assert np.abs(y.double().numpy() - np.clip(unclamped, -3, 3)).max() <= bound


@pytest.mark.parametrize("up", [1, 2])
def test_a_quantised_layer_is_near_the_float_layer(rng, up):
    """The error is that of rounding. A scale in the wrong place would be a wrong factor."""
    n, i, o, h, w = 2, 32, 8, 5, 4
    errors, references, f = [], [], setup_filter()
    for _ in range(6):  # The largest value of one draw decides how fine the steps are, so there are six draws.
        x, weight = (torch.from_numpy(draw(rng, *shape)) for shape in ((n, i, h, w), (o, i, 3, 3)))
        style = torch.from_numpy(draw(rng, n, i))
        demod = demodulation(weight, style)
        reference = modulated_conv2d(*(t.double() for t in (x, weight, style, demod)), up=up, f=f.double(), activation="lrelu")
        phases = (fold(weight, f) if up == 2 else weight[None]).permute(0, 1, 3, 4, 2).contiguous()
        q, scale = quantize_weight(phases)
        assert (q.float() * scale[:, None, None, None] - phases).abs().max() <= scale.max() * 0.5001
        step = float((x * style[:, :, None, None]).abs().max() / 127)
        y = torch.full((n, h * up, w * up, o), float("nan"))
        modulated_conv2d_into(
            y, x.permute(0, 2, 3, 1).contiguous(), q, *layer_operands(style, demod, step, scale), epilogue=Epilogue.of("lrelu")
        )
        errors.append(y.permute(0, 3, 1, 2).double() - reference)
        references.append(reference)
    assert torch.stack(errors).square().mean().sqrt() < 0.03 * torch.stack(references).square().mean().sqrt()


def test_operands_that_int8_cannot_serve_are_refused(rng):
    x, weight, y = torch.zeros(1, 2, 2, 3), torch.zeros(1, 4, 3, 3, 3, dtype=torch.int8), torch.zeros(1, 2, 2, 4)
    style, demod = torch.ones(1, 3), torch.ones(1, 4)
    for named in (
        {"style": None, "demod": demod}, {"style": style, "demod": None}, {"style": style, "demod": demod, "tile": Tile(16, 16, 16)}
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"int8|8-bit"):
            modulated_conv2d_into(y, x, weight, **named, epilogue=Epilogue())
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale"):
            layer_operands(style, demod, scale, torch.ones(4))
    for bad in (torch.zeros(4, 3, 3, 3), torch.full((1, 1, 1, 1, 1), float("nan"))):
        with pytest.raises(ValueError, match="quantize_weight"):
            quantize_weight(bad)
