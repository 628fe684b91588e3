"""A writer of the StyleGAN3 pickles of the stylegan3 repository, from stylert's own modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from stylert.models.stylegan2.layers import FullyConnected, MappingNetwork
from stylert.models.stylegan3.config import GeneratorConfig
from stylert.models.stylegan3.layer_list import LayerSpec
from stylert.models.stylegan3.networks import Generator, SynthesisInput, SynthesisLayer, SynthesisNetwork
from tests.models.importers.official_files import _state, official_module
from tests.models.importers.pickle_writer import Call, PickleWriter, number_record

#: Arguments of the official constructor that no module keeps.
ARGUMENTS = ("channel_base", "channel_max", "first_cutoff", "first_stopband", "last_stopband_rel")


def stylegan3_record(module: nn.Module, cfg: GeneratorConfig, options: dict[str, Any], path: str = "") -> Call:
    """A module as the official code would pickle it.

    `options` may hold `lr` (learning rate multiplier of the mapping), `average` (False leaves it out), and `arguments` (those of the
    constructor, by default all).
    """
    lr = options.get("lr", 0.01) if path.startswith("mapping.fc") else 1
    scale = 0.01 / lr if path.startswith("mapping.fc") else 1.0
    parameters = {
        k: Call("torch._utils", "_rebuild_parameter", (v.detach() * scale, True, Call("collections", "OrderedDict")))
        for k, v in module._parameters.items()
        if v is not None
    }
    buffers = dict(module._buffers)  # a layer without a filter keeps None
    if isinstance(module, MappingNetwork) and not options.get("average", True):
        buffers.pop("w_avg")
    children = {k: stylegan3_record(m, cfg, options, f"{path}.{k}" if path else k) for k, m in module._modules.items()}
    attributes, name = _attributes(module, cfg, options, lr)
    attributes["_init_args"], attributes["_init_kwargs"] = (), {}
    if isinstance(module, Generator):
        arguments = options.get("arguments", {key: getattr(cfg, key) for key in ARGUMENTS})
        attributes["_init_kwargs"] = {"img_resolution": cfg.resolution, "mapping_kwargs": {}, **arguments}
    return official_module(name, _state(attributes, parameters, buffers, children))


def _attributes(module: nn.Module, cfg: GeneratorConfig, options: dict[str, Any], lr: float) -> tuple[dict[str, Any], str]:
    match module:
        case FullyConnected():
            gain = number_record(lr / module.weight.shape[1] ** 0.5)
            return {"activation": module.activation, "weight_gain": gain, "bias_gain": lr}, "FullyConnectedLayer"
        case MappingNetwork():
            names = ("z_dim", "c_dim", "w_dim", "num_ws")
            beta = cfg.w_avg_beta if options.get("average", True) else None
            return {n: getattr(module, n) for n in names} | {
                "num_layers": module.num_layers,
                "w_avg_beta": beta,
            }, "MappingNetwork"
        case SynthesisInput():
            bandwidth = number_record(cfg.first_cutoff)
            return {"w_dim": cfg.w_dim, "channels": cfg.input_channels, "bandwidth": bandwidth}, "SynthesisInput"
        case SynthesisLayer():
            return _layer_attributes(module.spec, cfg), "SynthesisLayer"
        case SynthesisNetwork():
            names = (
                "w_dim",
                "num_ws",
                "img_channels",
                "num_layers",
                "num_critical",
                "margin_size",
                "output_scale",
                "num_fp16_res",
            )
            return {n: getattr(cfg, n) for n in names} | {"img_resolution": cfg.resolution}, "SynthesisNetwork"
        case _:
            return {"z_dim": cfg.z_dim, "img_resolution": cfg.resolution}, "Generator"


def _layer_attributes(spec: LayerSpec, cfg: GeneratorConfig) -> dict[str, Any]:
    """Rates are NumPy's numbers in some files, and whole floats."""
    return {
        "is_torgb": spec.is_torgb,
        "is_critically_sampled": spec.is_critical,
        "use_fp16": spec.is_fp16,
        "in_sampling_rate": number_record(spec.in_rate),
        "out_sampling_rate": spec.out_rate,
        "tmp_sampling_rate": number_record(spec.inner_rate),
        "in_cutoff": number_record(spec.in_cutoff),
        "conv_kernel": spec.kernel,
        "conv_clamp": cfg.conv_clamp,
        "magnitude_ema_beta": cfg.magnitude_ema_beta,
        "up_factor": spec.up,
        "down_factor": spec.down,
        "up_taps": spec.up_taps,
        "down_taps": spec.down_taps,
        "down_radial": cfg.use_radial_filters and not spec.is_critical,
        "padding": [*spec.padding, *spec.padding],
    }


def stylegan3_content(generator: Generator, **options: Any) -> dict[str, Any]:
    """`{training_set_kwargs, G, D, G_ema, augment_pipe}`, with other modules in the place of G and D."""
    pipe = official_module("AugmentPipe", _state({}, {}, {"p": torch.tensor(0.25)}, {}))
    return {
        "training_set_kwargs": Call("dnnlib.util", "EasyDict", new=True),
        "G": pipe,
        "D": pipe,
        "G_ema": stylegan3_record(generator, generator.cfg, options),
        "augment_pipe": pipe,
    }


def stylegan3_file(path: Path, generator: Generator, **options: Any) -> Path:
    """Write `stylegan3_content`. `change` in `options` may replace any part."""
    change = options.pop("change", lambda content: content)
    path.write_bytes(PickleWriter().dumps(change(stylegan3_content(generator, **options))))
    return path
