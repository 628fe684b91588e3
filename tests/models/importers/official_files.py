"""A writer of the checkpoints of stylegan2-ada-pytorch and stylegan3, from stylert's own modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from stylert.models.stylegan2.discriminator import Discriminator, DiscriminatorBlock, DiscriminatorEpilogue
from stylert.models.stylegan2.generator import SynthesisBlock, SynthesisLayer, ToRGB
from stylert.models.stylegan2.layers import Conv2d, FullyConnected, MappingNetwork
from tests.models.importers.pickle_writer import Call, PickleWriter, number_record


def official_module(name: str, state: dict[str, Any], source: str = "") -> Call:
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": name, "state": state}
    return Call("torch_utils.persistence", "_reconstruct_persistent_obj", (meta,))


def official_record(module: nn.Module, cfg: Any, options: dict[str, Any] | None = None, path: str = "") -> Call:
    """A module as the official code would pickle it. Both codes have the same names.

    `options` may hold `lr` (learning rate multiplier of the mapping), `noise` (False leaves it out), `source`, `frozen`,
    and `kwargs` (arguments of the constructor).
    """
    options = options or {}
    parameters = {k: Call("torch._utils", "_rebuild_parameter", (v, True, Call("collections", "OrderedDict")))
                  for k, v in _own(module, "_parameters", path, options).items()}  # fmt: skip
    buffers = dict(module._buffers)
    if options.get("frozen") and isinstance(module, Conv2d):
        buffers |= {k: v for k, v in module._parameters.items() if v is not None}
        parameters = {}
    if isinstance(module, SynthesisLayer) and not options.get("noise", True):
        parameters.pop("noise_strength")
        buffers.pop("noise_const")
    children = {k: official_record(m, cfg, options, f"{path}.{k}" if path else k) for k, m in module._modules.items()}
    if isinstance(module, DiscriminatorEpilogue) and cfg.mbstd_num_channels:
        settings = {"group_size": cfg.mbstd_group_size, "num_channels": cfg.mbstd_num_channels}
        children["mbstd"] = official_module("MinibatchStdLayer", _state(settings, {}, {}, {}))
    attributes, name = _attributes(module, cfg, options, path)
    if not path:
        attributes["_init_args"], attributes["_init_kwargs"] = (), options.get("kwargs", {})
    return official_module(name, _state(attributes, parameters, buffers, children), options.get("source", ""))


def _own(module: nn.Module, kind: str, path: str, options: dict[str, Any]) -> dict[str, Any]:
    own = {k: v for k, v in getattr(module, kind).items() if v is not None}
    if ".fc" in f".{path}" and "mapping" in path:  # stored for the multiplier of the options
        own = {k: v.detach().double().mul(0.01 / options.get("lr", 0.01)).float() for k, v in own.items()}
    return own


def _state(attributes: Any, parameters: Any, buffers: Any, children: Any) -> dict[str, Any]:
    return {
        "training": False,
        **attributes,
        "_parameters": parameters,
        "_buffers": buffers,
        "_non_persistent_buffers_set": Call("builtins", "set", ([],)),
        "_backward_hooks": Call("collections", "OrderedDict"),
        "_modules": children,
    }


def _attributes(module: nn.Module, cfg: Any, options: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    match module:
        case FullyConnected():
            lr = options.get("lr", 0.01) if ".fc" in f".{path}" and "mapping" in path else 1
            gain = number_record(lr / module.weight.shape[1] ** 0.5)
            return {"activation": module.activation, "weight_gain": gain, "bias_gain": lr}, "FullyConnectedLayer"
        case Conv2d():
            return {"activation": module.activation, "conv_clamp": module.clamp, "down": module.down}, "Conv2dLayer"
        case SynthesisLayer():
            noise = options.get("noise", True)
            attributes = {"use_noise": noise, "activation": options.get("activation", "lrelu"), "conv_clamp": module.clamp}
            return attributes, "SynthesisLayer"
        case ToRGB():
            return {"conv_clamp": module.clamp}, "ToRGBLayer"
        case SynthesisBlock() | DiscriminatorBlock():
            attributes = {"architecture": cfg.architecture, "use_fp16": module.use_fp16}
            return attributes, type(module).__name__
        case MappingNetwork():
            names = ("z_dim", "c_dim", "w_dim", "num_ws", "w_avg_beta")
            return {n: getattr(module, n) for n in names} | {"num_layers": module.num_layers}, "MappingNetwork"
        case Discriminator():
            return {"c_dim": cfg.c_dim, "img_resolution": cfg.resolution}, "Discriminator"
        case DiscriminatorEpilogue():
            return {"architecture": cfg.architecture}, "DiscriminatorEpilogue"
        case _:
            return {}, type(module).__name__


def official_file(path: Path, generator: nn.Module, raw: Any = None, discriminator: Any = None, **options: Any) -> Path:
    """Write `{training_set_kwargs, G, D, G_ema, augment_pipe}`. `change` in `options` may replace any part."""
    data: dict[str, Any] = {"training_set_kwargs": Call("dnnlib.util", "EasyDict", new=True)}
    if raw is not None:
        data["G"] = official_record(raw, raw.cfg, options)
    if discriminator is not None:
        data["D"] = official_record(discriminator, discriminator.cfg, options)
    data["G_ema"] = official_record(generator, generator.cfg, options)
    data["augment_pipe"] = official_module("AugmentPipe", _state({}, {}, {"p": torch.tensor(0.25)}, {}))
    path.write_bytes(PickleWriter().dumps(options.get("change", lambda x: x)(data)))
    return path
