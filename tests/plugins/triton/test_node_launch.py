"""One kernel computes one ONNX node like the float64 reference, from the node's operands, in the interpreter."""

import pytest
import torch

from stylert.plugins.fir_folding import channels_last_phases
from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
from stylert.plugins.reference.upfirdn2d import setup_filter, upfirdn2d
from stylert.plugins.shapes import Resampling
from stylert.plugins.triton.node_launch import conv_tiles, modulated_conv2d_node, run, upfirdn2d_node
from stylert.plugins.triton.tiles import Tile

LAYOUTS = {True: torch.channels_last, False: torch.contiguous_format}


def draw(rng, *shape, dtype=torch.float32):
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def in_layout(t, channels_last):
    return t.contiguous(memory_format=LAYOUTS[channels_last])


@pytest.mark.parametrize(("up", "ksize"), [(1, 1), (1, 3), (2, 3)])
@pytest.mark.parametrize(("nhwc", "ohwi"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_modulated_conv2d_node_matches_the_reference(rng, up, ksize, nhwc, ohwi, poisoned, assert_parity):
    # The interpreter is slow at folding the FIR, so 2x up maps are small.
    n, i, o, h, w = (int(v) for v in rng.integers([1, 1, 1, 1, 1], [4, 20, 20, 7, 7] if up == 1 else [4, 20, 20, 4, 4]))
    dtype = [torch.float32, torch.float16][int(rng.integers(2))]
    x = draw(rng, int(rng.choice([1, n])), i, h, w, dtype=dtype)
    weight = (draw(rng, o, i, ksize, ksize) / (i * ksize**2) ** 0.5).to(dtype)
    style, demod, bias = draw(rng, n, i, dtype=dtype), draw(rng, n, o).abs(), draw(rng, o)
    noise = draw(rng, int(rng.choice([1, n])), 1, *(int(rng.choice([1, size * up])) for size in (h, w)))
    f = draw(rng, 4, 4) / 4
    alpha, gain, clamp = float(rng.uniform(0, 1)), float(rng.uniform(0.5, 2)), float(rng.choice([0, 1]))
    tile = Tile(*(int(rng.choice([16, 32])) for _ in range(3)))
    launch = modulated_conv2d_node(
        x.shape, weight.shape, style.shape, noise.shape,
        up=up, alpha=alpha, gain=gain, clamp=clamp, nhwc=nhwc, ohwi=ohwi, tile=tile,
    )  # fmt: skip
    y = in_layout(poisoned(n, o, h * up, w * up, dtype=dtype), nhwc)
    run(launch, [in_layout(x, nhwc), in_layout(weight, ohwi), style, demod, noise, bias, f], y)

    operands = [t.double() for t in (x.expand(n, -1, -1, -1), weight, style, demod, noise, bias)]
    linear = modulated_conv2d(*operands, up=up, f=f.double() if up == 2 else None)
    terms = gain * modulated_conv2d(*(t.abs() for t in operands), up=up, f=f.double().abs() if up == 2 else None)
    unclamped = gain * torch.where(linear > 0, linear, alpha * linear)
    reference = unclamped.clamp(-clamp, clamp) if clamp else unclamped
    assert_parity(y, reference, dtype, launch, unclamped=unclamped, terms=terms)


@pytest.mark.parametrize(("up", "ksize"), [(1, 1), (1, 3), (2, 3)])
def test_a_node_with_a_folded_weight_matches_the_reference(rng, up, ksize, poisoned, assert_parity):
    """The weight is folded ahead and channels last, as an engine with plugins has it."""
    n, i, o, h, w = (int(v) for v in rng.integers([1, 1, 1, 1, 1], [4, 40, 20, 7, 7]))
    nhwc, dtype = bool(rng.integers(2)), [torch.float32, torch.float16][int(rng.integers(2))]
    x, f = draw(rng, n, i, h, w, dtype=dtype), draw(rng, 4, 4) / 4
    weight = draw(rng, o, i, ksize, ksize) / (i * ksize**2) ** 0.5
    folded = torch.from_numpy(channels_last_phases(weight.numpy(), f.numpy() if up == 2 else None)).to(dtype)
    style, demod, bias, noise = draw(rng, n, i), draw(rng, n, o).abs(), draw(rng, o), draw(rng, 1, 1, h * up, w * up)
    launch = modulated_conv2d_node(
        x.shape, folded.shape, style.shape, noise.shape, up=up, alpha=0.2, gain=1.5, clamp=0.0,
        nhwc=nhwc, ohwi=False, tile=Tile(16, 16, 16),
    )  # fmt: skip
    assert launch.constants["FOLD"] == 0
    y = in_layout(poisoned(n, o, h * up, w * up, dtype=dtype), nhwc)
    run(launch, [in_layout(x, nhwc), folded, style, demod, noise, bias, f], y)
    operands = [t.double() for t in (x, weight, style, demod, noise, bias)]
    linear = modulated_conv2d(*operands, up=up, f=f.double() if up == 2 else None)
    terms = 1.5 * modulated_conv2d(*(t.abs() for t in operands), up=up, f=f.double().abs() if up == 2 else None)
    assert_parity(y, 1.5 * torch.where(linear > 0, linear, 0.2 * linear), dtype, launch, terms=terms)


@pytest.mark.parametrize("up", [1, 2])
def test_an_int8_node_is_the_float64_layer_of_its_integers(rng, up, poisoned, assert_parity):
    n, i, o, h, w = (int(v) for v in rng.integers([1, 1, 1, 1, 1], [4, 20, 20, 7, 7]))
    dtype, nhwc, ohwi = (
        [torch.float32, torch.float16][int(rng.integers(2))],
        bool(rng.integers(2)),
        bool(rng.integers(2)) and up == 1,
    )
    x, style = draw(rng, n, i, h, w, dtype=dtype), draw(rng, n, i) * 40
    weight = torch.from_numpy(rng.integers(-127, 128, [4, o, 3, 3, i] if up == 2 else [o, i, 3, 3])).to(torch.int8)
    demod, bias, noise = draw(rng, n, o).abs() / 1000, draw(rng, o), draw(rng, 1, 1, h * up, w * up)
    launch = modulated_conv2d_node(
        x.shape, weight.shape, style.shape, noise.shape, up=up, alpha=0.2, gain=1.5, clamp=0.0,
        nhwc=nhwc, ohwi=ohwi, tile=Tile(16, 16, 32), int8=True,
    )  # fmt: skip
    y = in_layout(poisoned(n, o, h * up, w * up, dtype=dtype), nhwc)
    stored = in_layout(weight, ohwi) if up == 1 else weight
    run(launch, [in_layout(x, nhwc), stored, style, demod, noise, bias, torch.zeros(4, 4)], y)

    q = (x.float() * style[:, :, None, None]).clamp(-127, 127).round().double()
    linear = torch.empty(n, o, h * up, w * up, dtype=torch.float64)
    phases = weight.permute(0, 1, 4, 2, 3) if up == 2 else weight[None]
    for phase, taps in enumerate(phases.double()):
        linear[:, :, phase // up :: up, phase % up :: up] = torch.nn.functional.conv2d(q, taps, padding=1)
    linear *= demod.double()[:, :, None, None]
    v = linear + noise.double() + bias.double()[:, None, None]
    terms = linear.abs() + noise.double().abs() + bias.double().abs()[:, None, None]  # The sum itself is exact.
    assert_parity(y, 1.5 * torch.where(v > 0, v, 0.2 * v), dtype, launch, terms=terms)


@pytest.mark.parametrize("nhwc", [True, False], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("factors", [[1, 2], [1, 2, 3]], ids=["quad", "gather"])
def test_an_upfirdn2d_node_matches_the_reference(rng, nhwc, factors, dtype, poisoned, assert_parity):
    while True:
        up, down = ([int(v) for v in rng.choice(factors, 2)] for _ in range(2))
        spec = Resampling.of(
            up, down, [int(v) for v in rng.integers(-1, 5, 4)], bool(rng.integers(2)), float(rng.uniform(1, 4))
        )
        n, c, h, w = (int(v) for v in rng.integers([1, 1, 1, 1], [4, 6, 8, 8]))
        taps = tuple(int(v) for v in rng.integers(1, 6, 2))
        try:
            out = spec.output_size((h, w), taps)
        except ValueError:
            continue
        break
    x, f = draw(rng, n, c, h, w, dtype=dtype), draw(rng, *taps)
    launch = upfirdn2d_node(x.shape, f.shape, spec, nhwc=nhwc, itemsize=x.element_size(), num_warps=4)
    y = in_layout(poisoned(n, c, *out, dtype=dtype), nhwc)
    run(launch, [in_layout(x, nhwc), f], y)
    attributes = spec.up, spec.down, spec.padding, spec.flip, spec.gain
    terms = upfirdn2d(x.double().abs(), f.double().abs(), *attributes)
    assert_parity(y, upfirdn2d(x.double(), f.double(), *attributes), dtype, launch, terms=terms)


def test_a_half_precision_filter_needs_no_conversion(rng, poisoned, assert_parity):
    x, f, spec = draw(rng, 1, 3, 4, 5, dtype=torch.float16), setup_filter().half(), Resampling.of(up=2, padding=[2, 1, 2, 1])
    y = poisoned(1, 3, 8, 10, dtype=torch.float16)
    run(upfirdn2d_node(x.shape, f.shape, spec, nhwc=False, itemsize=2, num_warps=4), [x, f], y)
    assert_parity(y, upfirdn2d(x.double(), f.double(), 2, padding=[2, 1, 2, 1]), torch.float16)


def test_an_empty_batch_launches_nothing():
    launch = modulated_conv2d_node(
        (1, 3, 4, 4), (2, 3, 3, 3), (0, 3), (1, 1, 1, 1),
        up=1, alpha=0.2, gain=1.0, clamp=0.0, nhwc=True, ohwi=True, tile=Tile(16, 16, 16),
    )  # fmt: skip
    run(launch, [torch.zeros(1)] * 7, torch.zeros(0))


def test_nodes_that_are_not_defined_are_refused():
    good = {
        "x": (2, 3, 4, 4), "weight": (5, 3, 3, 3), "style": (2, 3), "noise": (1, 1, 4, 4), "up": 1, "alpha": 0.2,
        "gain": 1.0, "clamp": 0.0, "nhwc": True, "ohwi": True, "tile": conv_tiles(False, 2)[1],
    }  # fmt: skip
    modulated_conv2d_node(**good)
    wrong = [
        {"x": (3, 4, 4)}, {"weight": (5, 3, 3)}, {"weight": (5, 3, 2, 2)}, {"weight": (5, 3, 3, 1)}, {"up": 3}, {"up": 0},
        {"up": 2, "weight": (5, 3, 1, 1)}, {"x": (2, 4, 4, 4)}, {"style": (2, 4)}, {"gain": 0.0}, {"clamp": -1.0},
        {"gain": float("nan")}, {"clamp": float("nan")}, {"x": (2, 3, 2**15, 2**15)},
        {"up": 2, "int8": True}, {"up": 1, "int8": True, "weight": (4, 5, 3, 3, 3)}, {"up": 2, "int8": True, "weight": (2, 5, 3, 3, 3)},
        {"up": 2, "weight": (1, 5, 3, 3, 3)}, {"up": 1, "weight": (1, 5, 2, 2, 3)}, {"up": 1, "weight": (1, 5, 3, 3, 4)},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(ValueError, match="ModulatedConv2d"):
            modulated_conv2d_node(**{**good, **change})
    for shapes in (((1, 2, 3), (4, 4)), ((1, 2, 3, 4), (4,))):
        with pytest.raises(ValueError, match="Upfirdn2d"):
            upfirdn2d_node(*shapes, Resampling(), nhwc=True, itemsize=2, num_warps=4)
