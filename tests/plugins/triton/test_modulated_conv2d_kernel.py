"""The ModulatedConv2d kernels equal the float64 reference, in the interpreter."""

import pytest
import torch

from stylert.plugins.fir_folding import fold
from stylert.plugins.reference.modulated_conv2d import modulated_conv2d
from stylert.plugins.reference.upfirdn2d import setup_filter
from stylert.plugins.shapes import Epilogue
from stylert.plugins.triton.modulated_conv2d import modulated_conv2d_into, workspace_elements
from stylert.plugins.triton.tiles import ConvProblem, Tile, default_tile

FIR = setup_filter()


def draw(rng, *shape, dtype=torch.float32):
    return torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def maybe(rng, value):
    return value if rng.integers(3) else None


def compare(rng, dtype, up, ksize, n, i, o, h, w, tile, poisoned, assert_parity, f=FIR):
    """One layer with random operands and attributes, some of them absent.

    Operands are rounded to `dtype` for the kernel and for the reference.
    """
    x, style = draw(rng, n, i, h, w, dtype=dtype), draw(rng, n, i, dtype=dtype)
    weight = (draw(rng, o, i, ksize, ksize) / (i * ksize**2) ** 0.5).to(dtype)
    demod, bias = maybe(rng, draw(rng, n, o).abs()), maybe(rng, draw(rng, o))
    noise_shape = (int(rng.choice([1, n])), 1, *(int(rng.choice([1, size * up])) for size in (h, w)))
    noise = maybe(rng, draw(rng, *noise_shape))
    activation, clamp = str(rng.choice(["linear", "lrelu"])), maybe(rng, float(rng.uniform(0.5, 3)))

    def exact(bound):
        operands = [None if t is None else t.double() for t in (x, weight, style, demod, noise, bias)]
        return modulated_conv2d(*operands, up=up, f=f.double() if up == 2 else None, activation=activation, clamp=bound)

    phases = fold(weight.float(), f).to(dtype) if up == 2 else weight[None]
    y = poisoned(n, h * up, w * up, o, dtype=dtype)
    splits = tile.splits if tile else 1
    work = poisoned(workspace_elements(n, h * w, o, phases.shape[0] if up == 2 else 1, splits), dtype=torch.float32)
    modulated_conv2d_into(
        y,
        x.permute(0, 2, 3, 1).contiguous(),
        phases.permute(0, 1, 3, 4, 2).contiguous(),
        style,
        demod,
        None if noise is None else noise.expand(n, 1, h * up, w * up)[:, 0],
        bias,
        epilogue=Epilogue.of(activation, clamp=clamp),
        tile=tile,
        workspace=work if splits > 1 else None,
        precision="ieee" if dtype == torch.bfloat16 else "tf32x3",
    )
    what = (n, i, o, h, w, activation, clamp, tile)
    sizes = [None if t is None else t.double().abs() for t in (x, weight, style, demod, noise, bias)]
    terms = modulated_conv2d(*sizes, up=up, f=f.double().abs() if up == 2 else None)
    assert_parity(y.permute(0, 3, 1, 2), exact(clamp), dtype, what, unclamped=exact(None), terms=terms)


@pytest.mark.parametrize(("up", "ksize"), [(1, 1), (1, 3), (2, 3)])
def test_a_layer_matches_the_reference(rng, dtype, up, ksize, poisoned, assert_parity):
    for _ in range(2):
        n, i, o, h, w = (int(v) for v in rng.integers([1, 1, 1, 1, 1], [6, 40, 40, 8, 8]))
        compare(rng, dtype, up, ksize, n, i, o, h, w, None, poisoned, assert_parity)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("tile", [Tile(16, 16, 16), Tile(16, 32, 32), Tile(64, 16, 16)], ids=["16", "16x32", "64x16"])
def test_the_result_does_not_depend_on_the_tile(rng, up, tile, poisoned, assert_parity):
    compare(rng, torch.float32, up, 3, 2, 18, 20, 3, 3, tile, poisoned, assert_parity)


@pytest.mark.parametrize("up", [1, 2])
def test_the_result_does_not_depend_on_the_order_of_programs(rng, up, poisoned, assert_parity):
    """Groups may or may not divide the blocks of pixels, of one sample or of the batch."""
    tile = Tile(16, 16, 32, group=int(rng.integers(2, 5)))
    h, w = (int(v) for v in rng.integers(1, 6, 2))
    compare(rng, torch.float32, up, 3, 3, 5, 20, h, w, tile, poisoned, assert_parity)


@pytest.mark.parametrize("up", [1, 2])
def test_a_sum_in_several_programs_is_the_layer(rng, dtype, up, poisoned, assert_parity):
    """There may be fewer parts than steps, as many, or more. Some parts are then empty."""
    n, i, o, h, w = (int(v) for v in rng.integers([1, 1, 1, 1, 1], [4, 24, 24, 5, 5]))
    tile = Tile(32, 32, 16, splits=int(rng.integers(2, 22)), group=int(rng.integers(1, 3)))
    compare(rng, dtype, up, 3, n, i, o, h, w, tile, poisoned, assert_parity)


def test_a_split_sum_is_the_same_every_time_and_needs_its_workspace(rng):
    x, weight, style = draw(rng, 2, 3, 4, 20), draw(rng, 1, 9, 3, 3, 20), draw(rng, 2, 20)
    tile, results = Tile(16, 16, 16, splits=5), []
    elements = workspace_elements(2, 12, 9, 1, 5)
    for _ in range(2):
        y = torch.full((2, 3, 4, 9), float("nan"))
        modulated_conv2d_into(
            y, x, weight, style, epilogue=Epilogue(), tile=tile, workspace=torch.full((elements,), float("nan"))
        )
        results.append(y)
    assert torch.equal(*results)
    for bad in (None, torch.zeros(elements - 1), torch.zeros(elements, dtype=torch.int32), torch.zeros(2 * elements)[::2]):
        with pytest.raises(ValueError, match="workspace"):
            modulated_conv2d_into(y, x, weight, style, epilogue=Epilogue(), tile=tile, workspace=bad)


def test_samples_that_share_a_tile_keep_their_own_styles(rng, poisoned, assert_parity):
    for n in (2, 5):
        compare(rng, torch.float32, 1, 3, n, 5, 4, 2, 3, Tile(32, 16, 16), poisoned, assert_parity)


@pytest.mark.parametrize("up", [1, 2])
def test_one_channel_and_one_pixel_match_the_reference(rng, up, poisoned, assert_parity):
    compare(rng, torch.float32, up, 3, 1, 1, 1, 1, 1, None, poisoned, assert_parity)


@pytest.mark.parametrize(("up", "ksize", "taps"), [(1, 5, 4), (2, 1, 4), (2, 5, 4), (2, 3, 2), (2, 3, 6)])
def test_other_kernels_and_filters_match_the_reference(rng, up, ksize, taps, poisoned, assert_parity):
    f = draw(rng, taps, taps) / taps
    compare(rng, torch.float32, up, ksize, 2, 3, 4, 3, 5, None, poisoned, assert_parity, f=f)


def test_an_input_that_is_already_modulated_needs_no_style(rng, poisoned, assert_parity):
    x, weight, style = draw(rng, 2, 5, 6, 7), draw(rng, 4, 3, 3, 7), draw(rng, 2, 7)
    y = poisoned(2, 5, 6, 4, dtype=torch.float32)
    modulated_conv2d_into(y, x * style[:, None, None], weight[None], None, epilogue=Epilogue())
    channels_first = x.permute(0, 3, 1, 2).double(), weight.permute(0, 3, 1, 2).double()
    assert_parity(y.permute(0, 3, 1, 2), modulated_conv2d(*channels_first, style.double()), torch.float32)


def test_chosen_tiles_are_powers_of_two_that_tensor_cores_take(rng):
    for _ in range(100):
        batch, pixels, o, i = (int(v) for v in rng.integers(1, [64, 2_000_000, 600, 600]))
        for dtype in ("float16", "float32", "int8", "fp8"):
            tile = default_tile(ConvProblem(dtype, batch, pixels, i, o, 3, 1))
            assert all(size >= 16 and size & (size - 1) == 0 for size in (tile.m, tile.n, tile.k))
            assert default_tile(ConvProblem(dtype, batch, pixels, i, o, 3, 1), min_channels=o).n >= o


def test_operands_that_do_not_fit_are_refused(rng):
    good = {
        "y": torch.empty(2, 4, 4, 5), "x": torch.zeros(2, 4, 4, 3), "weight": torch.zeros(1, 5, 3, 3, 3),
        "style": torch.zeros(2, 3), "demod": torch.zeros(2, 5), "noise": torch.zeros(2, 4, 4), "bias": torch.zeros(5),
    }  # fmt: skip
    modulated_conv2d_into(**good, epilogue=Epilogue())
    grown = int(rng.integers(1, 4))
    wrong = [
        {name: torch.zeros([size + grown for size in t.shape])} for name, t in good.items()
    ] + [
        {name: t.double()} for name, t in good.items()
    ] + [
        {name: torch.zeros(t.shape[::-1]).permute(*range(t.ndim)[::-1])}
        for name, t in good.items() if name not in ("noise", "bias")
    ] + [
        {"y": good["y"].half()}, {"weight": torch.zeros(2, 5, 3, 3, 3)}, {"weight": torch.zeros(1, 5, 2, 2, 3)},
        {"weight": torch.zeros(1, 5, 3, 1, 3)}, {"weight": torch.zeros(4, 5, 3, 3, 3)}, {"weight": good["weight"].half()},
        {"weight": good["weight"][0]}, {"x": good["x"][0]}, {"precision": "fp32"},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(ValueError, match="modulated_conv2d"):
            modulated_conv2d_into(**{**good, "epilogue": Epilogue(), **change})
