"""A run of the tests can be repeated, and every change of the sources draws new inputs."""

import random
import shutil

import numpy as np
import pytest
import torch

from tests import draws


@pytest.fixture
def clear_seed():
    draws.run_seed.cache_clear()
    yield
    draws.run_seed.cache_clear()


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


def test_the_seed_follows_the_sources_and_nothing_else(tmp_path, monkeypatch, clear_seed):
    monkeypatch.delenv("STYLERT_TEST_SEED", raising=False)

    def seed(folder):
        monkeypatch.setattr(draws, "ROOT", folder)
        draws.run_seed.cache_clear()
        return draws.run_seed()

    a, b = tmp_path / "a", tmp_path / "b"
    (a / "tests").mkdir(parents=True)
    (a / "tests" / "test_x.py").write_text("assert 1\n")
    (a / "y.py").write_text("z = 2\n")
    shutil.copytree(a, b)
    (b / ".venv").mkdir()
    (b / ".venv" / "installed.py").write_text("x")
    (b / "out").mkdir()
    (b / "out" / "made.py").write_text("x")
    assert seed(a) == seed(b)
    (b / "y.py").write_text("z = 3\n")
    assert seed(a) != seed(b)


def test_a_given_seed_is_taken(monkeypatch, clear_seed):
    monkeypatch.setenv("STYLERT_TEST_SEED", str(2**32 + 5))
    assert draws.run_seed() == 5
