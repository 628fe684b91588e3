"""The networks of a checkpoint as the writers take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stylert.models.network_config import BaseGeneratorConfig
from stylert.models.stylegan2.config import DiscriminatorConfig


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
