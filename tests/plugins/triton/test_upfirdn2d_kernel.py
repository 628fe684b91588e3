"""The Upfirdn2d kernels equal the float64 reference, in the interpreter."""

import numpy as np
import pytest
import torch

from stylert.plugins.reference.upfirdn2d import setup_filter, upfirdn2d
from stylert.plugins.shapes import Resampling
from stylert.plugins.triton.upfirdn2d import fits_quad, upfirdn2d_into

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def random_case(rng, factors):
    """Random attributes and shapes that leave an output, with odd sizes and crops."""
    while True:
        up, down = rng.choice(factors, 2), rng.choice(factors, 2)
        spec = Resampling.of(
            [int(v) for v in up], [int(v) for v in down], [int(v) for v in rng.integers(-2, 5, 4)],
            bool(rng.integers(2)), float(rng.uniform(0.5, 4)),
        )  # fmt: skip
        n, c, h, w = (int(v) for v in rng.integers([1, 1, 1, 1], [6, 4, 9, 9]))
        taps = tuple(int(v) for v in rng.integers(1, 6, 2))
        try:
            return spec, (n, c, h, w), taps, spec.output_size((h, w), taps)
        except ValueError:
            continue


def compare(rng, spec, shape, taps, out, dtype, layout, poisoned, assert_parity):
    x = torch.from_numpy(rng.standard_normal(shape)).to(dtype).contiguous(memory_format=layout)
    f = torch.from_numpy(rng.standard_normal(taps)).float()
    y = poisoned(*shape[:2], *out, dtype=dtype, layout=layout)
    upfirdn2d_into(y, x, f, spec)
    attributes = spec.up, spec.down, spec.padding, spec.flip, spec.gain
    reference, terms = (
        upfirdn2d(*operands, *attributes) for operands in ((x.double(), f.double()), (x.double().abs(), f.double().abs()))
    )
    assert_parity(y, reference, dtype, (spec, shape, taps), terms=terms)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_factors_padding_and_filter_match_the_reference(rng, dtype, layout, poisoned, assert_parity):
    for _ in range(2):
        case = random_case(rng, [1, 2, 3])
        compare(rng, *case, dtype, LAYOUTS[layout], poisoned, assert_parity)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_quad_kernel_matches_the_reference_for_every_padding_and_filter(rng, dtype, layout, poisoned, assert_parity):
    for _ in range(2):
        spec, shape, taps, out = random_case(rng, [1, 2])
        assert fits_quad(spec, taps)
        compare(rng, spec, shape, taps, out, dtype, LAYOUTS[layout], poisoned, assert_parity)


@pytest.mark.parametrize(
    "spec",
    [
        Resampling.of(up=2, padding=[2, 1, 2, 1], gain=4.0),
        Resampling.of(down=2, padding=1),
        Resampling.of(padding=1, gain=4.0),
        Resampling.of(up=2, padding=[1, 2, 1, 2], flip=True),
    ],
    ids=["upsample", "downsample", "blur", "downsample_gradient"],
)
def test_the_resamplings_of_stylegan2_match_the_reference(rng, spec, poisoned, assert_parity):
    n, c, h, w = (int(v) for v in rng.integers([1, 1, 5, 5], [4, 70, 9, 9]))
    f = setup_filter()
    x = torch.from_numpy(rng.standard_normal((n, c, h, w))).float().contiguous(memory_format=torch.channels_last)
    y = poisoned(n, c, *spec.output_size((h, w), (4, 4)), dtype=torch.float32, layout=torch.channels_last)
    upfirdn2d_into(y, x, f, spec)
    reference = upfirdn2d(x.double(), f.double(), spec.up, spec.down, spec.padding, spec.flip, spec.gain)
    assert_parity(y, reference, torch.float32, (spec, x.shape))


def test_a_large_filter_takes_the_gather_kernel(rng, poisoned, assert_parity):
    spec = Resampling.of(up=1, down=2, padding=6)
    assert not fits_quad(spec, (12, 12))
    compare(rng, spec, (1, 1, 9, 7), (12, 12), (5, 4), torch.float32, torch.contiguous_format, poisoned, assert_parity)


def test_strided_views_are_read_in_place(rng, poisoned, assert_parity):
    whole = torch.from_numpy(rng.standard_normal((2, 6, 9, 12))).float()
    x = whole[:, 1::2, 1:8, ::3]
    f = torch.from_numpy(rng.standard_normal((3, 3))).float()
    y = poisoned(2, 3, 7, 4, dtype=torch.float32)
    upfirdn2d_into(y, x, f, Resampling.of(padding=1))
    assert_parity(y, upfirdn2d(x.double(), f.double(), padding=1), torch.float32)


def test_the_adjoint_is_the_transpose(rng):
    for _ in range(2):
        spec, shape, taps, out = random_case(rng, [1, 2, 3])
        x = torch.from_numpy(rng.standard_normal(shape)).float()
        f = torch.from_numpy(rng.standard_normal(taps)).float()
        dy = torch.from_numpy(rng.standard_normal((*shape[:2], *out))).float()
        y, dx = torch.empty_like(dy), torch.empty_like(x)
        upfirdn2d_into(y, x, f, spec)
        upfirdn2d_into(dx, dy, f, spec.adjoint(shape[2:], taps))
        forward, backward = (y.double() * dy).sum(), (x.double() * dx).sum()
        # Each side is a sum of these terms. float32 rounds a term about thirty times at most.
        terms = upfirdn2d(x.abs(), f.abs(), spec.up, spec.down, spec.padding, spec.flip, spec.gain).mul(dy.abs()).sum()
        assert abs(forward - backward) <= 1e-5 * terms


def test_an_empty_batch_launches_nothing(poisoned):
    upfirdn2d_into(torch.empty(0, 3, 4, 4), torch.empty(0, 3, 4, 4), torch.ones(1, 1), Resampling())


@pytest.mark.parametrize(
    "attributes",
    [
        {"up": 0}, {"down": -1}, {"up": (2, 0)}, {"up": 1.5}, {"down": (1, 2, 3)}, {"padding": (1, 2, 3)},
        {"padding": (0.5, 0.5)}, {"up": True}, {"gain": float("nan")}, {"gain": float("inf")}, {"padding": "1"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_attributes_are_refused(attributes):
    with pytest.raises(ValueError, match="upfirdn2d"):
        Resampling.of(**attributes)


def test_operands_that_do_not_fit_are_refused(rng):
    x, f, spec = torch.zeros(1, 2, 4, 4), torch.ones(3, 3), Resampling()
    size = int(rng.integers(3, 9))
    wrong = [
        (torch.empty(1, 2, size, 9), x, f, spec),
        (torch.empty(1, 2, 2, 2, dtype=torch.float16), x, f, spec),
        (torch.empty(1, 2, 2, 2).double(), x.double(), f, spec),
        (torch.empty(1, 2, 2, 2), x, f.double(), spec),
        (torch.empty(1, 2, 2, 2), x, f[0], spec),
        (torch.empty(1, 2, 2, 2), x[0], f, spec),
        (torch.empty(1, 2, 2, 2), x, f, Resampling.of(padding=-1)),
        (torch.empty(1, 2, 2, 2), x[:, :, :0], f, spec),
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match="upfirdn2d"):
            upfirdn2d_into(*arguments)


def test_a_sample_beyond_32_bit_offsets_is_refused():
    x = torch.empty(1, 1, 2**16, 2**16, device="meta")
    with pytest.raises(ValueError, match="too large"):
        upfirdn2d_into(x, x, torch.ones(1, 1), Resampling())


def test_random_attributes_agree_with_the_reference_or_are_refused_by_both(rng):
    for _ in range(200):
        up, down = (int(v) for v in rng.integers(-1, 4, 2))
        pad = [int(v) for v in rng.integers(-4, 4, int(rng.choice([2, 3, 4, 5])))]
        shape, taps = tuple(int(v) for v in rng.integers(1, 5, 4)), tuple(int(v) for v in rng.integers(1, 5, 2))
        try:
            size = upfirdn2d(torch.zeros(shape), torch.ones(taps), up, down, pad).shape[2:]
        except ValueError:
            size = None
        try:
            output_size = Resampling.of(up, down, pad).output_size(shape[2:], taps)
        except ValueError:
            output_size = None
        assert output_size == (None if size is None else tuple(size)), (up, down, pad, shape, taps)


def test_the_factors_decide_between_the_quad_and_the_gather_kernel():
    assert fits_quad(Resampling.of(up=2, down=2), (4, 4))
    assert not fits_quad(Resampling.of(up=3), (4, 4))
    assert not fits_quad(Resampling.of(down=(1, 3)), np.array([4, 4]).tolist())
