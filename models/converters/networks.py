"""The networks of a checkpoint as the writers take them, and their check."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stylert.core.errors import InputError, shown
from stylert.models.network_config import BaseGeneratorConfig
from stylert.models.network_kinds import generator_shapes
from stylert.models.stylegan2.config import DiscriminatorConfig
from stylert.models.stylegan2.state_dict import discriminator_shapes
from stylert.models.tensors import checked_tensors


@dataclass(frozen=True)
class NetworksToWrite:
    """Float32 arrays under the official names.

    Attributes:
        config: Configuration of the generators.
        generator: The averaged generator, G_ema.
        raw: The generator as it was trained, G, or None.
        discriminator_config: Configuration of the discriminator, or None.
        discriminator: The discriminator, D, or None.
    """

    config: BaseGeneratorConfig
    generator: dict[str, np.ndarray]
    raw: dict[str, np.ndarray] | None = None
    discriminator_config: DiscriminatorConfig | None = None
    discriminator: dict[str, np.ndarray] | None = None


def checked_networks(networks: NetworksToWrite, refusal: str) -> NetworksToWrite:
    """The same networks with the tensors of their configurations alone.

    Args:
        networks: The networks.
        refusal: Begin of the messages.

    Raises:
        InputError: These are no networks, or a configuration is of another type.
        CheckpointError: A tensor is missing, has another shape, or is not finite in float32.
    """
    if not isinstance(networks, NetworksToWrite):
        raise InputError(f"{refusal}: these are no NetworksToWrite: {shown(networks)}")
    config, d_config = networks.config, networks.discriminator_config
    if not isinstance(config, BaseGeneratorConfig) or not isinstance(d_config, DiscriminatorConfig | None):
        raise InputError(f"{refusal}: {shown(config)} and {shown(d_config)} are no configurations of G and D")
    if (networks.discriminator is None) != (d_config is None):
        raise InputError(f"{refusal}: a discriminator comes with its configuration")
    shapes = generator_shapes(config)
    generator = checked_tensors(networks.generator, shapes, f"{refusal}: G_ema")
    raw = None if networks.raw is None else checked_tensors(networks.raw, shapes, f"{refusal}: G")
    if d_config is None:
        return NetworksToWrite(config, generator, raw)
    discriminator = checked_tensors(networks.discriminator, discriminator_shapes(d_config), f"{refusal}: D")
    return NetworksToWrite(config, generator, raw, d_config, discriminator)
