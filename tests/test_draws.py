"""A run of the tests can be repeated; only a given seed draws other inputs."""

import random

import numpy as np
import torch

from tests import draws


def test_each_name_draws_its_own_numbers_and_draws_them_again():
    def numbers(name):
        draws.seed_everything(name)
        return (
            random.random(),
            np.random.random(),
            float(torch.rand(())),
            *draws.fresh().random(2),
            draws.draws_of(name).random(),
        )

    first, other, again = numbers("a"), numbers("b"), numbers("a")
    assert first == again
    assert not set(first) & set(other)
    assert len(set(first)) == len(first)


def test_without_a_given_seed_every_run_draws_the_same(monkeypatch):
    monkeypatch.delenv("STYLERT_TEST_SEED", raising=False)
    assert draws.run_seed() == draws.DEFAULT_SEED


def test_a_given_seed_is_taken(monkeypatch):
    monkeypatch.setenv("STYLERT_TEST_SEED", str(2**32 + 5))
    assert draws.run_seed() == 5
