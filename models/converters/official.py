"""Writes checkpoints for stylegan2-ada-pytorch and stylegan3: a pickle of `{training_set_kwargs, G, D, G_ema, augment_pipe}`."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from stylert.core.errors import InputError
from stylert.models.converters import official_stylegan3
from stylert.models.converters.networks import NetworksToWrite
from stylert.models.converters.official_records import module_state, persistent
from stylert.models.converters.official_stylegan2 import DiscriminatorModule, GeneratorModule
from stylert.models.converters.pickle_writer import Call, Global, PickleWriter
from stylert.models.converters.torch_file import storage_bytes, tensor_call
from stylert.models.stylegan2 import config as stylegan2
from stylert.models.stylegan3 import config as stylegan3

#: The module of each network's classes in each project.
NETWORK_MODULES = {
    "stylegan2-ada-pytorch": {"stylegan2": "training.networks"},
    "stylegan3": {"stylegan2": "training.networks_stylegan2", "stylegan3": "training.networks_stylegan3"},
}
#: The words by which stylert knows a file that it wrote.
WRITER_COMMENT = "# written by stylert\n"


def write_official(file: BinaryIO, networks: NetworksToWrite, project: str) -> list[str]:
    """Write a checkpoint for `project`, a name from `NETWORK_MODULES`. Returns notes for the user.

    Raises:
        InputError: The project has no such network.
    """
    modules, config = NETWORK_MODULES[project], networks.config
    if config.network not in modules:
        raise InputError(f"the code of {project} has no {config.title}")
    config.require_usual_shape(f"the code of {project}")
    source = f"{WRITER_COMMENT}from {modules[config.network]} import *\n"
    notes = []
    averaged = _generator(networks, networks.generator, source, project)
    raw = averaged if networks.raw is None else _generator(networks, networks.raw, source, project)
    if networks.raw is None:
        notes.append("G is a copy of G_ema: the checkpoint has no other")
    if networks.discriminator is None or networks.discriminator_config is None:
        # Its loader wants a module. One without parameters leaves the discriminator of a new training as it begins.
        discriminator = persistent("Module", module_state({}), "from torch.nn import Module\n")
        notes.append("D has no weights: the checkpoint has none")
    else:
        discriminator = DiscriminatorModule(networks.discriminator_config, source).module(networks.discriminator)
    content = {"training_set_kwargs": None, "G": raw, "D": discriminator, "G_ema": averaged, "augment_pipe": None}
    PickleWriter(file, _tensor).dump(content)
    return notes


def _generator(networks: NetworksToWrite, arrays: dict[str, np.ndarray], source: str, project: str) -> Call:
    config: Any = networks.config
    if isinstance(config, stylegan3.GeneratorConfig):
        return official_stylegan3.generator_module(config, arrays, source)
    assert isinstance(config, stylegan2.GeneratorConfig)
    return GeneratorModule(config, source, nests_arguments=project == "stylegan2-ada-pytorch").module(arrays)


def _tensor(array: np.ndarray) -> Call:
    storage = Call(Global("torch.storage", "_load_from_bytes"), (storage_bytes(array),))
    return tensor_call(storage, array)
