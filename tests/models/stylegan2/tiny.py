"""Small networks, on which the tests of StyleGAN2 run in a moment."""

from typing import Any

from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.networks import Discriminator, Generator

TINY = {"channel_base": 64, "channel_max": 6, "mapping_layers": 2}


def tiny_generator(**changes: Any) -> Generator:
    """A generator of 16 px with 6 latents of 7 values, from z of 5 values."""
    return Generator(GeneratorConfig(**{"resolution": 16, "z_dim": 5, "w_dim": 7, **TINY, **changes})).eval()


def tiny_discriminator(**changes: Any) -> Discriminator:
    """A discriminator of 16 px with groups of two samples."""
    return Discriminator(DiscriminatorConfig(**{"resolution": 16, "mbstd_group_size": 2, **TINY, **changes}))
