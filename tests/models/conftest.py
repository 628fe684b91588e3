"""Fixtures of the tests of networks: one torch thread, a seed, the float64 reference."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.draws import fresh
from tests.models.stylegan2.float64_reference import Reference


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def seed() -> int:
    return int(fresh().integers(2**31))


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


@pytest.fixture
def reference() -> type[Reference]:
    return Reference


@pytest.fixture
def randomize():
    """A function that moves every parameter away from its initial value, so that biases and noise strengths count."""

    def move(module: torch.nn.Module) -> torch.nn.Module:
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.add_(torch.randn_like(p) * (5 if name.startswith("mapping") else 0.3))
            if hasattr(getattr(module, "mapping", None), "w_avg"):
                module.mapping.w_avg.copy_(torch.randn_like(module.mapping.w_avg))
        return module

    return move
