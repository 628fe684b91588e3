"""The standard models are the same on every machine."""

from __future__ import annotations

import hashlib

import pytest
import torch

from stylert.benchmarks.models import default_precisions
from stylert.benchmarks.standard_networks import NAMES, standard_weights
from stylert.core.errors import InputError
from stylert.core.seeds import z_from_seeds
from stylert.models.checkpoint import generator_module


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("sg2-256", "1c21b99746dfb1ba4a5433a8f896c5da4efc0aa1b70450352ee70db7f8c57e18"),
        ("sg1-256", "db89453b8683689c1ecda3ed98fac8dd11d1c4d2c59fd86e5f3c1e08c68540dd"),
        ("sg3-t-256", "82657c8c06e3a6b76c568603b35bdc815217c4060845c2c289339f33d492877d"),
        ("sg3-r-256", "fc7b884bd5e582eb21ab46e0dfb15c8a58f01f80adc1dcea91859c8f7c7762a4"),
    ],
)
def test_standard_models_are_the_same_everywhere(name: str, digest: str) -> None:
    weights = standard_weights(name)
    assert (
        hashlib.sha256(b"".join(k.encode() + v.tobytes() for k, v in sorted(weights.arrays.items()))).hexdigest() == digest
    ), "a change of these weights makes every earlier measurement of them incomparable"


@pytest.mark.long
@pytest.mark.parametrize("name", ["sg1-256", "sg2-256", "sg3-t-256", "sg3-r-256"])
def test_standard_models_make_images_of_usual_contrast(name: str) -> None:
    image = generator_module(standard_weights(name))(torch.from_numpy(z_from_seeds([0], 512)).float()).detach()
    assert 0.05 < float(image.std()) < 10  # a network that is dead or has overflown has a flat image


def test_names_are_known_and_have_the_precisions_that_they_share() -> None:
    assert NAMES == ("sg1-256", "sg1-1024", "sg2-256", "sg2-512", "sg2-1024", "sg3-t-256", "sg3-r-256")
    assert default_precisions(["sg2-256", "sg2-512"]) == ("fp32", "bf16", "int8")
    assert default_precisions(["sg1-1024"]) == ("fp32", "fp16", "int8")
    assert default_precisions(["sg1-1024", "sg2-256"]) == ("fp32", "int8")
    assert default_precisions(["sg3-t-256"]) == ("fp32", "fp16")
    assert default_precisions(["sg2-256", "sg3-r-256"]) == ("fp32",)
    with pytest.raises(InputError, match="sg2-256"):
        standard_weights("sg2-13")
