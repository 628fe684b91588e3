"""Writes checkpoints for stylegan2-ada-pytorch and stylegan3: a pickle of `{training_set_kwargs, G, D, G_ema, augment_pipe}`.

Each module is a call of `torch_utils.persistence._reconstruct_persistent_obj` with the name of its class, its state, and the
source text of the class, which the official code executes. The text here is our own: it takes the classes from the code that
reads the file. The attributes of the modules are those of both projects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from stylert.models.converters.networks import NetworksToWrite
from stylert.models.converters.pickle_writer import ORDERED_DICT, Call, Global, PickleWriter
from stylert.models.converters.torch_file import storage_bytes, tensor_call
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER, DiscriminatorConfig, GeneratorConfig

#: The version of `torch_utils.persistence` that both projects have.
PERSISTENCE_VERSION = 6
#: The module of StyleGAN2's networks in each project.
NETWORK_MODULES = {"stylegan2-ada-pytorch": "training.networks", "stylegan3": "training.networks_stylegan2"}
#: The words by which stylert knows a file that it wrote.
WRITER_COMMENT = "# written by stylert\n"
LRELU_GAIN = math.sqrt(2)
#: Attributes of a module in every version of torch, beside its tensors.
HOOKS = ("_backward_hooks", "_forward_hooks", "_forward_pre_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")

Arrays = Mapping[str, np.ndarray]


def write_official(file: BinaryIO, networks: NetworksToWrite, project: str) -> list[str]:
    """Write a checkpoint for `project`, a name from `NETWORK_MODULES`. Returns notes for the user."""
    notes = []
    source = f"{WRITER_COMMENT}from {NETWORK_MODULES[project]} import *\n"
    generator = _Generator(networks.config, source, project)
    content = {
        "training_set_kwargs": None,
        "G": None,
        "D": None,
        "G_ema": generator.module(networks.generator),
        "augment_pipe": None,
    }
    if networks.raw is None:
        content["G"] = generator.module(networks.generator)
        notes.append("G is a copy of G_ema: the checkpoint has no other")
    else:
        content["G"] = generator.module(networks.raw)
    if networks.discriminator is None or networks.discriminator_config is None:
        # Its loader wants a module. One without parameters leaves the discriminator of a new training as it begins.
        content["D"] = _persistent("Module", _state({}), "from torch.nn import Module\n")
        notes.append("D has no weights: the checkpoint has none")
    else:
        content["D"] = _Discriminator(networks.discriminator_config, source).module(networks.discriminator)
    PickleWriter(file, _tensor).dump(content)
    return notes


# --- records -------------------------------------------------------------------------------------------------------


def _tensor(array: np.ndarray) -> Call:
    storage = Call(Global("torch.storage", "_load_from_bytes"), (storage_bytes(array),))
    return tensor_call(storage, array)


def _persistent(class_name: str, state: dict[str, Any], source: str) -> Call:
    meta = {"type": "class", "version": PERSISTENCE_VERSION, "module_src": source, "class_name": class_name, "state": state}
    return Call(Global("torch_utils.persistence", "_reconstruct_persistent_obj"), (meta,))


def _state(
    attributes: Mapping[str, Any],
    parameters: Arrays | None = None,
    buffers: Arrays | None = None,
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


@dataclass(frozen=True)
class _Layers:
    """Records of the layers that both networks have.

    Attributes:
        source: Source text of the classes.
        arrays: The tensors of the network.
    """

    source: str
    arrays: Arrays

    def record(self, class_name: str, state: dict[str, Any]) -> Call:
        return _persistent(class_name, state, self.source)

    def own(self, name: str, *tensors: str) -> dict[str, np.ndarray]:
        """Those of these tensors that the layer has."""
        return {tensor: self.arrays[f"{name}.{tensor}"] for tensor in tensors if f"{name}.{tensor}" in self.arrays}

    def linear(self, name: str, activation: str = "linear", lr_multiplier: float = 1) -> Call:
        outputs, inputs = self.arrays[f"{name}.weight"].shape
        attributes = {
            "in_features": inputs,
            "out_features": outputs,
            "activation": activation,
            "weight_gain": lr_multiplier / math.sqrt(inputs),
            "bias_gain": lr_multiplier,
        }
        return self.record("FullyConnectedLayer", _state(attributes, self.own(name, "weight", "bias")))

    def conv(self, name: str, activation: str = "lrelu", up: int = 1, down: int = 1, clamp: float | None = None) -> Call:
        weight = self.arrays[f"{name}.weight"]
        outputs, inputs, kernel, _ = weight.shape
        attributes = {
            "in_channels": inputs,
            "out_channels": outputs,
            "activation": activation,
            "up": up,
            "down": down,
            "conv_clamp": clamp,
            "padding": kernel // 2,
            "weight_gain": 1 / math.sqrt(inputs * kernel**2),
            "act_gain": LRELU_GAIN if activation == "lrelu" else 1,
        }
        parameters = self.own(name, "weight", "bias")
        if "bias" not in parameters:
            attributes["bias"] = None
        return self.record("Conv2dLayer", _state(attributes, parameters, self.own(name, "resample_filter")))

    def mapping(self, z_dim: int, c_dim: int, w_dim: int, num_ws: int | None, layers: int, beta: float | None) -> Call:
        children = {"embed": self.linear("mapping.embed")} if c_dim else {}
        for i in range(layers):
            children[f"fc{i}"] = self.linear(f"mapping.fc{i}", "lrelu", MAPPING_LR_MULTIPLIER)
        arguments = {"z_dim": z_dim, "c_dim": c_dim, "w_dim": w_dim, "num_ws": num_ws, "num_layers": layers, "w_avg_beta": beta}
        return self.record("MappingNetwork", _state(arguments, None, self.own("mapping", "w_avg"), children, arguments))


# --- generator -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Generator:
    cfg: GeneratorConfig
    source: str
    project: str

    def module(self, arrays: Arrays) -> Call:
        """The whole generator."""
        cfg, layers = self.cfg, _Layers(self.source, arrays)
        mapping = layers.mapping(cfg.z_dim, cfg.c_dim, cfg.w_dim, cfg.num_ws, cfg.mapping_layers, cfg.w_avg_beta)
        sizes = {
            "z_dim": cfg.z_dim,
            "c_dim": cfg.c_dim,
            "w_dim": cfg.w_dim,
            "img_resolution": cfg.resolution,
            "img_channels": cfg.img_channels,
        }
        synthesis_arguments = {
            "channel_base": cfg.channel_base,
            "channel_max": cfg.channel_max,
            "num_fp16_res": cfg.num_fp16_res,
            "architecture": cfg.architecture,
            "resample_filter": _taps(cfg.resample_filter),
            "conv_clamp": cfg.conv_clamp,
        }
        # The older code takes them together, the newer one by one.
        nested = {"synthesis_kwargs": synthesis_arguments} if self.project == "stylegan2-ada-pytorch" else synthesis_arguments
        mapping_arguments = {"num_layers": cfg.mapping_layers, "w_avg_beta": cfg.w_avg_beta}
        children = {"synthesis": self._synthesis(layers, synthesis_arguments), "mapping": mapping}
        return layers.record(
            "Generator",
            _state(
                {**sizes, "num_ws": cfg.num_ws},
                children=children,
                arguments={**sizes, "mapping_kwargs": mapping_arguments, **nested},
            ),
        )

    def _synthesis(self, layers: _Layers, arguments: dict[str, Any]) -> Call:
        cfg = self.cfg
        sizes = {"w_dim": cfg.w_dim, "img_resolution": cfg.resolution, "img_channels": cfg.img_channels}
        attributes = {
            **sizes,
            "img_resolution_log2": int(math.log2(cfg.resolution)),
            "num_fp16_res": cfg.num_fp16_res,
            "block_resolutions": list(cfg.block_resolutions),
            "num_ws": cfg.num_ws,
        }
        blocks = {f"b{res}": self._block(layers, res) for res in cfg.block_resolutions}
        return layers.record("SynthesisNetwork", _state(attributes, children=blocks, arguments={**sizes, **arguments}))

    def _block(self, layers: _Layers, res: int) -> Call:
        cfg, name = self.cfg, f"synthesis.b{res}"
        specs = {layer.name_in_block: layer for layer in cfg.layers() if layer.resolution == res}
        attributes = {
            "in_channels": 0 if res == 4 else cfg.channels(res // 2),
            "w_dim": cfg.w_dim,
            "resolution": res,
            "img_channels": cfg.img_channels,
            "is_last": res == cfg.resolution,
            "architecture": cfg.architecture,
            "use_fp16": cfg.is_fp16(res),
            "channels_last": False,
            "fused_modconv_default": True,
            "num_conv": sum(spec.kind == "conv" for spec in specs.values()),
            "num_torgb": sum(spec.kind == "torgb" for spec in specs.values()),
        }
        children = {part: self._layer(layers, f"{name}.{part}", res) for part in specs}
        if res in cfg.shortcuts():
            children["skip"] = layers.conv(f"{name}.skip", "linear", up=2)
        state = _state(attributes, layers.own(name, "const"), layers.own(name, "resample_filter"), children)
        return layers.record("SynthesisBlock", state)

    def _layer(self, layers: _Layers, name: str, res: int) -> Call:
        """A modulated convolution or a torgb."""
        outputs, inputs, kernel, _ = layers.arrays[f"{name}.weight"].shape
        attributes: dict[str, Any] = {
            "in_channels": inputs,
            "out_channels": outputs,
            "w_dim": self.cfg.w_dim,
            "conv_clamp": self.cfg.conv_clamp,
        }
        children = {"affine": layers.linear(f"{name}.affine")}
        if name.endswith("torgb"):
            attributes["weight_gain"] = 1 / math.sqrt(inputs * kernel**2)
            return layers.record("ToRGBLayer", _state(attributes, layers.own(name, "weight", "bias"), None, children))
        attributes |= {
            "resolution": res,
            "up": 2 if name.endswith("conv0") else 1,
            "use_noise": True,
            "activation": "lrelu",
            "padding": kernel // 2,
            "act_gain": LRELU_GAIN,
        }
        parameters = layers.own(name, "weight", "noise_strength", "bias")
        buffers = layers.own(name, "resample_filter", "noise_const")
        return layers.record("SynthesisLayer", _state(attributes, parameters, buffers, children))


# --- discriminator -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Discriminator:
    cfg: DiscriminatorConfig
    source: str

    def module(self, arrays: Arrays) -> Call:
        """The whole discriminator."""
        cfg, layers = self.cfg, _Layers(self.source, arrays)
        sizes = {"c_dim": cfg.c_dim, "img_resolution": cfg.resolution, "img_channels": cfg.img_channels}
        children, first = {}, 0
        for res in cfg.block_resolutions:
            parts = self._parts(layers, res)
            children[f"b{res}"] = self._block(layers, res, parts, first)
            first += len(parts)
        if cfg.c_dim:
            children["mapping"] = layers.mapping(0, cfg.c_dim, cfg.cmap_dim, None, cfg.mapping_layers, None)
        children["b4"] = self._epilogue(layers)
        attributes = {
            **sizes,
            "img_resolution_log2": int(math.log2(cfg.resolution)),
            "block_resolutions": list(cfg.block_resolutions),
        }
        arguments = {
            **sizes,
            "architecture": cfg.architecture,
            "channel_base": cfg.channel_base,
            "channel_max": cfg.channel_max,
            "num_fp16_res": cfg.num_fp16_res,
            "conv_clamp": cfg.conv_clamp,
            "block_kwargs": {"resample_filter": _taps(cfg.resample_filter)},
            "mapping_kwargs": {"num_layers": cfg.mapping_layers},
            "epilogue_kwargs": {"mbstd_group_size": cfg.mbstd_group_size, "mbstd_num_channels": cfg.mbstd_num_channels},
        }
        return layers.record("Discriminator", _state(attributes, children=children, arguments=arguments))

    def _parts(self, layers: _Layers, res: int) -> dict[str, Call]:
        name, clamp = f"b{res}", self.cfg.conv_clamp
        parts = {"fromrgb": layers.conv(f"{name}.fromrgb", clamp=clamp)} if f"{name}.fromrgb.weight" in layers.arrays else {}
        parts["conv0"] = layers.conv(f"{name}.conv0", clamp=clamp)
        parts["conv1"] = layers.conv(f"{name}.conv1", down=2, clamp=clamp)
        if self.cfg.architecture == "resnet":
            parts["skip"] = layers.conv(f"{name}.skip", "linear", down=2)
        return parts

    def _block(self, layers: _Layers, res: int, parts: dict[str, Call], first: int) -> Call:
        cfg = self.cfg
        attributes = {
            "in_channels": 0 if res == cfg.resolution else cfg.channels(res),
            "resolution": res,
            "img_channels": cfg.img_channels,
            "first_layer_idx": first,
            "architecture": cfg.architecture,
            "use_fp16": cfg.is_fp16(res),
            "channels_last": False,
            "num_layers": len(parts),
        }
        return layers.record("DiscriminatorBlock", _state(attributes, None, layers.own(f"b{res}", "resample_filter"), parts))

    def _epilogue(self, layers: _Layers) -> Call:
        cfg = self.cfg
        attributes = {
            "in_channels": cfg.channels(4),
            "cmap_dim": cfg.cmap_dim,
            "resolution": 4,
            "img_channels": cfg.img_channels,
            "architecture": cfg.architecture,
        }
        children = {}
        if cfg.architecture == "skip":
            children["fromrgb"] = layers.conv("b4.fromrgb")
        if cfg.mbstd_num_channels:
            settings = {"group_size": cfg.mbstd_group_size, "num_channels": cfg.mbstd_num_channels}
            children["mbstd"] = layers.record("MinibatchStdLayer", _state(settings, arguments=settings))
        children["conv"] = layers.conv("b4.conv", clamp=cfg.conv_clamp)
        children["fc"] = layers.linear("b4.fc", "lrelu")
        children["out"] = layers.linear("b4.out")
        return layers.record("DiscriminatorEpilogue", _state(attributes, children=children))


def _taps(taps: tuple[float, ...]) -> list[float]:
    """As the official code has them in its arguments: whole numbers where they are."""
    return [int(tap) if tap == int(tap) else tap for tap in taps]
