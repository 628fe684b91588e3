"""Whole pipelines: identity at p = 0, independent images, second derivatives, refusals; and the adaptive p."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stylert.train.augment.adaptive import INTERVAL, AdaptiveProbability
from stylert.train.augment.groups import PIPELINES
from stylert.train.augment.pipeline import augment


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_p_zero_is_the_identity_bit_for_bit(rng, pipeline):
    images = torch.from_numpy(rng.normal(size=(3, 3, 16, 16))).float()
    assert torch.equal(augment(images, 0.0, pipeline), images)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_without_a_transformation_stay_bit_for_bit(rng, pipeline, channels):
    images = torch.from_numpy(rng.normal(size=(64, channels, 16, 16))).float()
    result = augment(images, 0.02, pipeline)
    same = (result == images).flatten(1).all(1)
    expected = 0.98 ** {"blit": 3, "geom": 4, "color": 5, "filter": 4, "noise": 1, "cutout": 1, "diffaug": 1}.get(pipeline, 12)
    assert float(same.double().mean()) > expected - 0.3
    assert result.isfinite().all()


def test_at_p_one_every_orientation_is_equally_likely(seed):
    """Even at p = 1, half of the images are mirrored (Karras et al. 2020b, section 2.2)."""
    torch.manual_seed(seed)
    n = 3000
    columns = torch.arange(16.0).expand(n, 3, 16, 16)
    result = augment(columns, 1.0, "blit")
    steps = (result[:, 0, 8, 8] - result[:, 0, 8, 7]).double(), (result[:, 0, 8, 8] - result[:, 0, 7, 8]).double()
    horizontal = steps[0].abs() > 0.5
    assert float(horizontal.double().mean()) == pytest.approx(0.5, abs=0.06)
    assert float((steps[0][horizontal] > 0).double().mean()) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("pipeline", ["blit", "geom", "color", "filter", "noise", "cutout", "bgcfnc", "diffaug"])
def test_first_and_second_derivatives_equal_finite_differences(rng, seed, pipeline):
    images = torch.from_numpy(rng.normal(size=(2, 3, 8, 8))).requires_grad_()
    mixing = torch.from_numpy(rng.normal(size=(3 * 8 * 8, 2)))

    def scalars(x):
        torch.manual_seed(seed)
        return (augment(x, 0.8, pipeline).flatten(1) @ mixing).square()

    assert torch.autograd.gradcheck(scalars, [images], fast_mode=True)
    assert torch.autograd.gradgradcheck(scalars, [images], fast_mode=True)


def test_random_parameters_do_not_depend_on_the_type_of_the_images(rng, seed):
    images = torch.from_numpy(rng.normal(size=(4, 3, 16, 16)))
    torch.manual_seed(seed)
    double = augment(images, 0.9, "bgcf")
    torch.manual_seed(seed)
    single = augment(images.float(), 0.9, "bgcf")
    torch.testing.assert_close(single.double(), double, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("shape", "p", "pipeline", "message"),
    [
        ((2, 3, 8, 8), 0.5, "bgx", "unknown augmentation pipeline"),
        ((2, 3, 8, 8), 1.5, "bgc", r"\[0, 1\]"),
        ((2, 3, 8, 8), math.nan, "bgc", r"\[0, 1\]"),
        ((2, 4, 8, 8), 0.5, "bgc", "grey or RGB"),
        ((3, 8, 8), 0.5, "bgc", r"\[N, C, H, W\]"),
    ],
)
def test_refuses_wrong_shapes_probabilities_and_pipelines(shape, p, pipeline, message):
    with pytest.raises(ValueError, match=message):
        augment(torch.zeros(shape), p, pipeline)


@given(st.lists(st.floats(-1, 1), max_size=60), st.integers(1, 64), st.floats(0.01, 500), st.floats(0, 1))
def test_p_changes_by_the_sign_every_fourth_step_and_stays_in_its_range(signs, batch, kimg, target):
    adaptive, p = AdaptiveProbability(batch, target, kimg), 0.0
    for i, sign in enumerate(signs):
        adaptive.update(sign)
        if (i + 1) % INTERVAL == 0:
            mean = sum(signs[i + 1 - INTERVAL : i + 1]) / INTERVAL
            if abs(mean - target) > 1e-9:
                p = float(np.clip(p + np.sign(mean - target) * batch * INTERVAL / (kimg * 1000), 0, 1))
            else:
                p = adaptive.p
        assert adaptive.p == pytest.approx(p)


def test_p_reaches_one_after_ada_kimg():
    adaptive, batch = AdaptiveProbability(32, 0.6, kimg=10), 32
    shown = 0
    while adaptive.p < 1:
        adaptive.update(1.0)
        shown += batch
    assert shown == pytest.approx(10_000, rel=0.02)


@given(st.lists(st.floats(-1, 1), max_size=20), st.lists(st.floats(-1, 1), max_size=20))
def test_a_restored_state_continues_exactly(before, after):
    first, second = AdaptiveProbability(8, kimg=1), AdaptiveProbability(8, kimg=1)
    for sign in before:
        first.update(sign)
    second.load_state(first.state())
    for sign in after:
        first.update(sign)
        second.update(sign)
    assert first.state() == second.state()


@pytest.mark.parametrize("facts", [{}, [], "x", None, {"p": 2, "signs": 0, "steps": 0}, {"p": 0.5, "signs": "x", "steps": 0}])
def test_refuses_an_invalid_state(facts):
    with pytest.raises(ValueError, match="adaptive augmentation"):
        AdaptiveProbability(8).load_state(facts)
