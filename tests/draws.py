"""The random inputs of the tests: new ones for every state of the sources, the same ones for the same state.

A run's seed is a digest of the sources and tests, so that whoever repeats a run, on whatever machine and in whatever order,
repeats its verdict, while each change of the code meets inputs that no earlier run has seen. `STYLERT_TEST_SEED=N` sets it:
`make fuzz` runs the tests with one that is drawn anew.
"""

from __future__ import annotations

import hashlib
import os
import random
import zlib
from functools import cache
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
SKIPPED = {".venv", "build", "dist", "out", "runs"}


@cache
def run_seed() -> int:
    """The seed of this run, below 2^32."""
    if given := os.environ.get("STYLERT_TEST_SEED"):
        return int(given) % 2**32
    digest = hashlib.sha256()
    for folder, names, files in os.walk(ROOT):
        names[:] = sorted(name for name in names if name not in SKIPPED and not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".py"):
                path = Path(folder, name)
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return int.from_bytes(digest.digest()[:4])


def seed_of(name: str) -> int:
    """The seed of one test or of one shared object, below 2^32."""
    return zlib.crc32(name.encode(), run_seed())


def draws_of(name: str) -> np.random.Generator:
    """The random numbers of an object that several tests share."""
    return np.random.default_rng(seed_of(name))


def fresh() -> np.random.Generator:
    """New random numbers inside of a test, from its own seed."""
    return np.random.default_rng(random.getrandbits(64))


def seed_everything(name: str) -> None:
    """Seeds what draws by itself: Python, NumPy, and PyTorch where it is installed."""
    random.seed(seed_of(name))
    np.random.seed(seed_of(name))
    try:
        import torch
    except ImportError:
        return
    torch.manual_seed(seed_of(name))
