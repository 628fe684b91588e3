"""The standard models are the same on every machine."""

from __future__ import annotations

import hashlib

import pytest
import torch

from stylert.benchmarks.standard_networks import NAMES, standard_weights
from stylert.core.errors import InputError
from stylert.models.checkpoint import generator_module


def test_standard_models_are_the_same_everywhere_and_alive() -> None:
    weights = standard_weights("sg2-256")
    digest = hashlib.sha256(b"".join(k.encode() + v.tobytes() for k, v in sorted(weights.arrays.items()))).hexdigest()
    assert digest == "1c21b99746dfb1ba4a5433a8f896c5da4efc0aa1b70450352ee70db7f8c57e18", (
        "a change of these weights makes every earlier measurement of them incomparable"
    )
    image = generator_module(weights)(torch.randn(1, 512)).detach()
    assert 0.1 < float(image.std()) < 10
    with pytest.raises(InputError, match="sg2-256"):
        standard_weights("sg2-13")
    assert NAMES == ("sg2-256", "sg2-512", "sg2-1024")
