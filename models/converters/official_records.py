"""The modules of the official code as its pickles hold them, for `official_stylegan2.py` and `official_stylegan3.py`.

Each module is a call of `torch_utils.persistence._reconstruct_persistent_obj` with the name of its class, its state, and the
source text of the class, which the official code executes. The text here is our own: it takes the classes from the code that
reads the file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylert.models.converters.pickle_writer import ORDERED_DICT, Call, Global
from stylert.models.network_config import BaseGeneratorConfig
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER

#: The version of `torch_utils.persistence` that the official projects have.
PERSISTENCE_VERSION = 6
#: Attributes of a module in every version of torch, beside its tensors.
HOOKS = ("_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")

Arrays = Mapping[str, np.ndarray]


def persistent(class_name: str, state: Mapping[str, Any], source: str) -> Call:
    """The module of the class that `source` defines under `class_name`."""
    meta = {
        "type": "class",
        "version": PERSISTENCE_VERSION,
        "module_src": source,
        "class_name": class_name,
        "state": dict(state),
    }
    return Call(Global("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,))


def module_state(
    attributes: Mapping[str, Any],
    parameters: Arrays | None = None,
    buffers: Mapping[str, np.ndarray | None] | None = None,
    children: Mapping[str, Call] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The attributes of a `torch.nn.Module`, and the arguments with which it was made."""
    parameter = Global("torch._utils", "_rebuild_parameter")
    return {
        "training": False,
        "_parameters": {name: Call(parameter, (array, False, ORDERED_DICT)) for name, array in (parameters or {}).items()},
        "_buffers": dict(buffers or {}),
        "_non_persistent_buffers_set": Call(Global("builtins", "set")),
        **dict.fromkeys(HOOKS, ORDERED_DICT),
        "_modules": dict(children or {}),
        **attributes,
        "_init_args": (),
        "_init_kwargs": dict(arguments or {}),
    }


def generator_sizes(cfg: BaseGeneratorConfig) -> dict[str, int]:
    """The first arguments of a generator, which are also its attributes."""
    return {
        "z_dim": cfg.z_dim,
        "c_dim": cfg.c_dim,
        "w_dim": cfg.w_dim,
        "img_resolution": cfg.resolution,
        "img_channels": cfg.img_channels,
    }


@dataclass(frozen=True)
class OfficialLayers:
    """Makes the modules that several networks have.

    Attributes:
        source: Source text of the classes.
        arrays: The tensors of the network.
    """

    source: str
    arrays: Arrays

    def module(self, class_name: str, state: Mapping[str, Any]) -> Call:
        """A module of the network."""
        return persistent(class_name, state, self.source)

    def own(self, name: str, *tensors: str) -> dict[str, np.ndarray]:
        """Those of these tensors that the layer `name` has."""
        return {tensor: self.arrays[f"{name}.{tensor}"] for tensor in tensors if f"{name}.{tensor}" in self.arrays}

    def linear(self, name: str, activation: str = "linear", lr_multiplier: float = 1) -> Call:
        """A fully connected layer."""
        outputs, inputs = self.arrays[f"{name}.weight"].shape
        attributes = {
            "in_features": inputs,
            "out_features": outputs,
            "activation": activation,
            "weight_gain": lr_multiplier / math.sqrt(inputs),
            "bias_gain": lr_multiplier,
        }
        return self.module("FullyConnectedLayer", module_state(attributes, self.own(name, "weight", "bias")))

    def mapping(self, z_dim: int, c_dim: int, w_dim: int, num_ws: int | None, layers: int, beta: float | None) -> Call:
        """A mapping network."""
        children = {"embed": self.linear("mapping.embed")} if c_dim else {}
        for i in range(layers):
            children[f"fc{i}"] = self.linear(f"mapping.fc{i}", "lrelu", MAPPING_LR_MULTIPLIER)
        arguments = {"z_dim": z_dim, "c_dim": c_dim, "w_dim": w_dim, "num_ws": num_ws, "num_layers": layers, "w_avg_beta": beta}
        attributes = arguments if c_dim else {**arguments, "embed": None}  # StyleGAN3's code has the attribute in any case
        return self.module("MappingNetwork", module_state(attributes, None, self.own("mapping", "w_avg"), children, arguments))
