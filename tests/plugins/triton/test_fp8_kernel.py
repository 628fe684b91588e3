"""ModulatedConv2d with FP8 weights equals float64 over the decoded values, in the interpreter.

The interpreter's own conversion to E4M3 loses the carry into the next power of two. So the kernel rounds with
`round_to_fp8` here. On a GPU one instruction converts.
"""

import numpy as np
import pytest
import torch

from stylert.plugins.aot import compile_all
from stylert.plugins.eight_bit import layer_operands, quantize_weight
from stylert.plugins.fir_folding import fold
from stylert.plugins.reference.modulated_conv2d import demodulation, modulated_conv2d
from stylert.plugins.reference.upfirdn2d import setup_filter
from stylert.plugins.shapes import Epilogue
from stylert.plugins.triton.modulated_conv2d import _product_form, modulated_conv2d_into
from stylert.plugins.triton.tiles import Tile
from stylert.plugins.triton.variants import variants

E4M3 = torch.float8_e4m3fn


def draw(rng, *shape):
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def test_the_kernel_rounds_as_the_format_does(rng):
    """Tried on every value of the format, every middle, the float32 neighbours of middles, and random numbers."""
    values = torch.arange(256, dtype=torch.uint8).view(E4M3).float()
    values = values[values.isfinite()].sort().values
    middles = (values[1:] + values[:-1]) / 2
    special = torch.cat([values, middles, *(torch.nextafter(middles, torch.tensor(b)) for b in (1e9, -1e9))])
    scattered = draw(rng, 2048 - len(special)) * torch.from_numpy(2.0 ** rng.integers(-14, 10, 2048 - len(special))).float()
    x = torch.cat([special, scattered])
    x, y = x.reshape(1, 4, 8, 64), torch.full((1, 4, 8, 64), float("nan"))
    ones, identity = torch.ones(1, 64), torch.eye(64).reshape(1, 64, 1, 1, 64).to(E4M3)
    modulated_conv2d_into(y, x, identity, ones, ones, epilogue=Epilogue(), precision="ieee")
    assert torch.equal(y, x.clamp(-448, 448).to(E4M3).float())


@pytest.mark.parametrize(("up", "ksize"), [(1, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize("activations", [torch.float32, torch.float16], ids=["f32", "f16"])
def test_the_layer_is_the_float64_layer_of_the_decoded_values(rng, up, ksize, activations, poisoned, assert_parity):
    n, h, w, i, o = (int(v) for v in rng.integers([1, 1, 1, 1, 1], [5, 7, 7, 40, 20]))
    x, style = draw(rng, n, h, w, i).to(activations), draw(rng, n, i) * 30
    weight = (draw(rng, up * up, o, ksize, ksize, i) * 100).clamp(-448, 448).to(E4M3)
    demod, noise, bias = draw(rng, n, o).abs() / 1000, draw(rng, n, h * up, w * up), draw(rng, o)
    y = poisoned(n, h * up, w * up, o, dtype=activations)
    tile = [None, Tile(16, 16, 32), Tile(32, 16, 32, splits=3)][int(rng.integers(3))]
    work = torch.full((3 * up * up * n * h * w * o,), float("nan"))
    modulated_conv2d_into(
        y, x, weight, style, demod, noise, bias, epilogue=Epilogue.of("lrelu"), tile=tile, precision="ieee", workspace=work
    )

    decoded = (x.float() * style[:, None, None]).clamp(-448, 448).to(E4M3).double().permute(0, 3, 1, 2)

    def linear(decoded, weight, demod, noise, bias):
        padded = torch.nn.functional.pad(decoded, [ksize // 2] * 4)
        sums = torch.empty(n, o, h * up, w * up, dtype=torch.float64)
        for phase, taps in enumerate(weight.double().permute(0, 1, 4, 2, 3)):
            sums[:, :, phase // up :: up, phase % up :: up] = torch.nn.functional.conv2d(padded, taps)
        return sums * demod.double()[:, :, None, None] + noise.double()[:, None] + bias.double()[:, None, None]

    v = linear(decoded, weight, demod, noise, bias)
    terms = linear(decoded.abs(), weight.double().abs(), demod, noise.abs(), bias.abs())
    assert_parity(
        y.permute(0, 3, 1, 2), 2**0.5 * torch.where(v > 0, v, 0.2 * v), activations, (n, h, w, i, o, tile), terms=terms
    )


@pytest.mark.parametrize("up", [1, 2])
def test_a_quantised_layer_is_near_the_float_layer(rng, up):
    """The error is that of rounding to three bits of fraction. A scale in the wrong place would be a wrong factor."""
    n, i, o, h, w = 2, 32, 8, 5, 4
    x, weight = draw(rng, n, i, h, w), draw(rng, o, i, 3, 3)
    style, f = draw(rng, n, i), setup_filter()
    demod = demodulation(weight, style)
    reference = modulated_conv2d(*(t.double() for t in (x, weight, style, demod)), up=up, f=f.double(), activation="lrelu")
    phases = (fold(weight, f) if up == 2 else weight[None]).permute(0, 1, 3, 4, 2).contiguous()
    q, scale = quantize_weight(phases, E4M3)
    assert (
        (q.float() * scale[:, None, None, None] - phases).abs() <= phases.abs() / 15 + scale[:, None, None, None] / 500
    ).all()
    step = float((x * style[:, :, None, None]).abs().max() / 448)
    y = torch.full((n, h * up, w * up, o), float("nan"))
    modulated_conv2d_into(
        y,
        x.permute(0, 2, 3, 1).contiguous(),
        q,
        *layer_operands(style, demod, step, scale),
        epilogue=Epilogue.of("lrelu"),
        precision="ieee",
    )
    error = y.permute(0, 3, 1, 2).double() - reference
    # Each factor is off by at most 1 in 15, so a product by little more than 2 in 15. The signs are random.
    assert error.square().mean().sqrt() < 0.08 * reference.square().mean().sqrt()


def test_hopper_has_a_form_of_its_own_for_sums_of_fp8():
    forms = [_product_form("fp8", "tf32x3", architecture) for architecture in (89, 90, 100, 120, None)]
    assert forms == ["fp8", "fp8_hopper", "fp8", "fp8", "fp8"]
    assert [_product_form(kind, "tf32x3", 90) for kind in ("int8", None)] == ["int8", "tf32x3"]
    assert _product_form("fp8", "ieee", 90) == "fp8_ieee"


def test_gpus_without_fp8_are_refused(monkeypatch):
    x, weight, y = torch.zeros(1, 2, 2, 32), torch.zeros(1, 4, 3, 3, 32).to(E4M3), torch.zeros(1, 2, 2, 4)
    for architecture in (80, 86):
        monkeypatch.setattr("stylert.plugins.triton.modulated_conv2d._architecture", lambda x, a=architecture: a)
        with pytest.raises(ValueError, match=f"8.9 or later, and this GPU is sm_{architecture}"):
            modulated_conv2d_into(y, x, weight, torch.ones(1, 32), torch.ones(1, 4), epilogue=Epilogue())


def test_compiling_for_gpus_without_fp8_is_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="sm_89 or later"):
        compile_all(["sm_80", "sm_86"], only="*fp8*")
    assert all(variant.min_capability == 89 for variant in variants() if "fp8" in variant.name)


def test_other_formats_and_values_that_are_not_finite_are_refused():
    for bad in (torch.zeros(4, 3, 3, 3), torch.full((1, 1, 1, 1, 1), float("nan"))):
        with pytest.raises(ValueError, match="quantize_weight"):
            quantize_weight(bad, E4M3)
    with pytest.raises(ValueError, match="float8_e5m2"):
        quantize_weight(torch.zeros(1, 1, 1, 1, 1), torch.float8_e5m2)


def test_a_sum_that_is_kept_in_14_bits_is_outside_of_the_bound_of_the_parity_check(rng):
    """The check on a GPU tells Hopper's own sums from those that are added in float32 after each step."""
    from stylert.benchmarks.kernels.parity.check import MAX_FP8_SUM_ERROR

    terms = np.abs(rng.standard_normal((64, 4608 // 32, 32)) * rng.standard_normal((64, 4608 // 32, 32)))
    exact = terms.sum((1, 2))

    def kept(bits, value):
        unit = 2.0 ** (np.floor(np.log2(np.maximum(value, 1e-30))) - bits + 1)
        return np.floor(value / unit) * unit  # the tensor cores cut off

    in_tensor_cores, in_float32 = np.zeros(64), np.zeros(64, np.float32)
    for step, products in enumerate(terms.transpose(1, 0, 2).sum(2)):
        in_tensor_cores = kept(14, in_tensor_cores + products)
        if step % 2 == 0:
            half_step = kept(14, products)
        else:
            in_float32 += kept(14, half_step + products).astype(np.float32)
    assert np.abs(in_tensor_cores / exact - 1).max() > 2 * MAX_FP8_SUM_ERROR
    assert np.abs(in_float32 / exact - 1).max() < MAX_FP8_SUM_ERROR / 2
