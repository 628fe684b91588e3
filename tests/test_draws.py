"""A run of the tests can be repeated. Only a given seed changes its inputs."""

import random

import numpy as np
import torch

from tests import draws


def test_each_name_has_its_own_numbers_in_every_run():
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


def test_the_seed_is_fixed_by_default(monkeypatch):
    monkeypatch.delenv("STYLERT_TEST_SEED", raising=False)
    assert draws.run_seed() == draws.DEFAULT_SEED


def test_a_given_seed_is_used_modulo_2_to_the_32(monkeypatch):
    monkeypatch.setenv("STYLERT_TEST_SEED", str(2**32 + 5))
    assert draws.run_seed() == 5
