"""Shared by the tests of the encoder: a tiny generator."""

from __future__ import annotations

import pytest
import torch

from stylert.models.stylegan2.networks import Generator
from tests.models.stylegan2.tiny import tiny_generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    network = tiny_generator()
    for name, parameter in network.named_parameters():
        if "torgb.weight" in name:
            parameter.data.mul_(0.4)  # images within [-1, 1]
    return network.requires_grad_(False)
