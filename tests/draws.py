"""The random inputs of the tests.

Without a given seed, a run draws from `DEFAULT_SEED`. It then has the same inputs on every machine, in any order, after any edit.
`STYLERT_TEST_SEED=N` sets another seed. `make fuzz` draws a new one and prints it.
"""

from __future__ import annotations

import os
import random
import zlib

import numpy as np

DEFAULT_SEED = 20261129


def run_seed() -> int:
    """The seed of this run, below 2^32."""
    return int(os.environ.get("STYLERT_TEST_SEED") or DEFAULT_SEED) % 2**32


def seed_of(name: str) -> int:
    """The seed of one test or of one shared object, below 2^32."""
    return zlib.crc32(name.encode(), run_seed())


def draws_of(name: str) -> np.random.Generator:
    """The random numbers of an object that several tests share, by its name."""
    return np.random.default_rng(seed_of(name))


def fresh() -> np.random.Generator:
    """A generator for use inside a test. Its seed comes from Python's `random`, which `seed_everything` seeds."""
    return np.random.default_rng(random.getrandbits(64))


def fuzz_budget(normal: int, fuzz: int) -> int:
    """Number of inputs of a test that damages files: `fuzz` under `make fuzz`, else `normal`."""
    return fuzz if os.environ.get("STYLERT_FUZZ") else normal


def seed_everything(name: str) -> None:
    """Seed the global generators of Python, NumPy and, if it is installed, PyTorch."""
    random.seed(seed_of(name))
    np.random.seed(seed_of(name))
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(seed_of(name))
