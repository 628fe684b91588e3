"""The networks that stylert knows, by their names in files: configuration, tensors and PyTorch module of each. No torch.

Checkpoints, importers and the other stages read a configuration here, so none of them has a list of its own.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stylert.core.errors import InputError, shown
from stylert.models.network_config import DEFAULT_NETWORK, NETWORK_FIELD, BaseGeneratorConfig
from stylert.models.stylegan1 import config as stylegan1
from stylert.models.stylegan1 import state_dict as stylegan1_tensors
from stylert.models.stylegan2 import config as stylegan2
from stylert.models.stylegan2 import state_dict as stylegan2_tensors
from stylert.models.stylegan3 import config as stylegan3
from stylert.models.stylegan3 import state_dict as stylegan3_tensors


@dataclass(frozen=True)
class NetworkKind:
    """One kind of network.

    Attributes:
        config: Configuration of its generator.
        shapes: Name and shape of every tensor of the generator, from the configuration.
        buffers: The last words of the names of tensors that are no parameters.
        module: The Python module with the class `Generator`, which needs torch.
    """

    config: type[BaseGeneratorConfig]
    shapes: Callable[[Any], dict[str, tuple[int, ...]]]
    buffers: tuple[str, ...]
    module: str


#: By the name that files have in `NETWORK_FIELD`.
NETWORK_KINDS = {
    stylegan1.GeneratorConfig.network: NetworkKind(
        stylegan1.GeneratorConfig,
        stylegan1_tensors.generator_shapes,
        stylegan1_tensors.BUFFERS,
        "stylert.models.stylegan1.networks",
    ),
    stylegan2.GeneratorConfig.network: NetworkKind(
        stylegan2.GeneratorConfig,
        stylegan2_tensors.generator_shapes,
        stylegan2_tensors.BUFFERS,
        "stylert.models.stylegan2.networks",
    ),
    stylegan3.GeneratorConfig.network: NetworkKind(
        stylegan3.GeneratorConfig,
        stylegan3_tensors.generator_shapes,
        stylegan3_tensors.BUFFERS,
        "stylert.models.stylegan3.networks",
    ),
}


def generator_config(data: Mapping[str, Any]) -> BaseGeneratorConfig:
    """The configuration of a generator from its form in JSON.

    Raises:
        ValueError: The network is unknown, or a field is unknown, missing or wrong. The message names it.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"a configuration is a dictionary, not {shown(data)}")
    name = data.get(NETWORK_FIELD, DEFAULT_NETWORK)
    if not isinstance(name, str) or name not in NETWORK_KINDS:
        raise ValueError(f"{NETWORK_FIELD} must be one of {', '.join(NETWORK_KINDS)}, not {name!r:.40}")
    return NETWORK_KINDS[name].config.from_dict(data)


def generator_shapes(config: BaseGeneratorConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a generator."""
    return NETWORK_KINDS[config.network].shapes(config)


def parameter_count(config: BaseGeneratorConfig) -> int:
    """The number of a generator's parameters. Buffers do not count."""
    buffers = NETWORK_KINDS[config.network].buffers
    return sum(math.prod(shape) for name, shape in generator_shapes(config).items() if not name.endswith(buffers))


def new_generator(config: BaseGeneratorConfig) -> Any:
    """A new generator as a PyTorch module. Needs torch."""
    return importlib.import_module(NETWORK_KINDS[config.network].module).Generator(config)


def require_stylegan2(config: BaseGeneratorConfig, owner: object, purpose: str) -> stylegan2.GeneratorConfig:
    """The configuration itself, for stages that know the layers of StyleGAN2 alone.

    Args:
        config: The configuration.
        owner: The file that it comes from, for the message.
        purpose: The stage, such as "stylert tune", for the message.

    Raises:
        InputError: It is that of another network.
    """
    if not isinstance(config, stylegan2.GeneratorConfig):
        raise InputError(f"{owner} is a {config.title} network, and {purpose} knows {stylegan2.GeneratorConfig.title} alone")
    return config
