"""Normalisation and the mapping network: truncation, running average, labels."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.models.stylegan2.layers import normalize_2nd_moment
from tests.models.stylegan2.tiny import tiny_generator


def test_rows_are_normalised_to_unit_mean_square(rng):
    x = torch.from_numpy(rng.normal(size=(4, 9)) * rng.uniform(0.1, 100, (4, 1)))
    torch.testing.assert_close(normalize_2nd_moment(x).square().mean(1), torch.ones(4).double(), rtol=1e-5, atol=0)
    assert normalize_2nd_moment(torch.zeros(1, 9)).isfinite().all()


@settings(deadline=None, max_examples=30)
@given(st.floats(-1, 2), st.none() | st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_truncation_moves_the_first_latents_toward_the_average(psi, cutoff, seed):
    torch.manual_seed(seed)
    mapping = tiny_generator().mapping
    mapping.w_avg.copy_(torch.randn(7))
    z = torch.randn(2, 5)
    w = mapping(z)
    moved = mapping.w_avg + psi * (w - mapping.w_avg)
    expected = moved if cutoff is None else torch.cat([moved[:, :cutoff], w[:, cutoff:]], 1)
    torch.testing.assert_close(mapping(z, psi=psi, cutoff=cutoff), expected, atol=1e-4, rtol=1e-4)


def test_running_average_moves_by_its_decay(randomize, seed):
    torch.manual_seed(seed)
    mapping = randomize(tiny_generator(w_avg_beta=0.9)).mapping
    before, z = mapping.w_avg.clone(), torch.randn(16, 5)
    w = mapping(z)[:, 0]
    torch.testing.assert_close(mapping.w_avg, before, rtol=0, atol=0)
    mapping(z, update_w_avg=True)
    torch.testing.assert_close(mapping.w_avg, 0.9 * before + 0.1 * w.mean(0))


def test_missing_labels_are_refused():
    with pytest.raises(ValueError, match="takes labels"):
        tiny_generator(c_dim=3)(torch.ones(1, 5))
