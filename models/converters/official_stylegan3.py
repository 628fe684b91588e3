"""StyleGAN3's generator as pickles of the stylegan3 repository hold it."""

from __future__ import annotations

from typing import Any

import numpy as np

from stylert.models.converters.official_records import Arrays, OfficialLayers, generator_sizes, module_state
from stylert.models.converters.pickle_writer import Call
from stylert.models.stylegan3.config import GeneratorConfig
from stylert.models.stylegan3.layer_list import LayerSpec

#: Arguments of the synthesis network, which have the names of our configuration.
SYNTHESIS_ARGUMENTS = (
    "channel_base", "channel_max", "num_layers", "num_critical", "first_cutoff", "first_stopband", "last_stopband_rel",
    "margin_size", "output_scale", "num_fp16_res", "conv_kernel", "filter_size", "lrelu_upsampling", "use_radial_filters",
    "conv_clamp", "magnitude_ema_beta",
)  # fmt: skip


def generator_module(cfg: GeneratorConfig, arrays: Arrays, source: str) -> Call:
    """The whole generator. `source` is the source text of the classes."""
    layers = OfficialLayers(source, arrays)
    sizes = generator_sizes(cfg)
    arguments = {name: getattr(cfg, name) for name in SYNTHESIS_ARGUMENTS}
    mapping = layers.mapping(cfg.z_dim, cfg.c_dim, cfg.w_dim, cfg.num_ws, cfg.mapping_layers, cfg.w_avg_beta)
    mapping_arguments = {"num_layers": cfg.mapping_layers, "w_avg_beta": cfg.w_avg_beta}
    state = module_state(
        {**sizes, "num_ws": cfg.num_ws},
        children={"synthesis": _synthesis(cfg, layers, arguments), "mapping": mapping},
        arguments={**sizes, "mapping_kwargs": mapping_arguments, **arguments},
    )
    return layers.module("Generator", state)


def _synthesis(cfg: GeneratorConfig, layers: OfficialLayers, arguments: dict[str, Any]) -> Call:
    specs = cfg.layers()
    sizes = {"w_dim": cfg.w_dim, "img_resolution": cfg.resolution, "img_channels": cfg.img_channels}
    attributes = {
        **sizes,
        "num_ws": cfg.num_ws,
        "num_layers": cfg.num_layers,
        "num_critical": cfg.num_critical,
        "margin_size": cfg.margin_size,
        "output_scale": cfg.output_scale,
        "num_fp16_res": cfg.num_fp16_res,
        "layer_names": [spec.name for spec in specs],
    }
    children = {"input": _input(cfg, layers), **{spec.name: _layer(cfg, layers, spec) for spec in specs}}
    return layers.module("SynthesisNetwork", module_state(attributes, children=children, arguments={**sizes, **arguments}))


def _input(cfg: GeneratorConfig, layers: OfficialLayers) -> Call:
    name = "synthesis.input"
    attributes = {
        "w_dim": cfg.w_dim,
        "channels": cfg.input_channels,
        "size": [cfg.input_size, cfg.input_size],
        "sampling_rate": float(cfg.input_rate),
        "bandwidth": cfg.first_cutoff,
    }
    buffers = layers.own(name, "transform", "freqs", "phases")
    children = {"affine": layers.linear(f"{name}.affine")}
    return layers.module("SynthesisInput", module_state(attributes, layers.own(name, "weight"), buffers, children))


def _layer(cfg: GeneratorConfig, layers: OfficialLayers, spec: LayerSpec) -> Call:
    name = f"synthesis.{spec.name}"
    attributes = {
        "w_dim": cfg.w_dim,
        "is_torgb": spec.is_torgb,
        "is_critically_sampled": spec.is_critical,
        "use_fp16": spec.is_fp16,
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "in_size": [spec.in_size, spec.in_size],
        "out_size": [spec.out_size, spec.out_size],
        "in_sampling_rate": spec.in_rate,
        "out_sampling_rate": spec.out_rate,
        "tmp_sampling_rate": spec.inner_rate,
        "in_cutoff": spec.in_cutoff,
        "out_cutoff": spec.out_cutoff,
        "in_half_width": spec.in_half_width,
        "out_half_width": spec.out_half_width,
        "conv_kernel": spec.kernel,
        "conv_clamp": cfg.conv_clamp,
        "magnitude_ema_beta": cfg.magnitude_ema_beta,
        "up_factor": spec.up,
        "up_taps": spec.up_taps,
        "down_factor": spec.down,
        "down_taps": spec.down_taps,
        "down_radial": spec.is_radial,
        "padding": [*spec.padding, *spec.padding],
    }
    # A layer that keeps a rate has None in the place of the filter.
    buffers: dict[str, np.ndarray | None] = {"magnitude_ema": None, "up_filter": None, "down_filter": None}
    buffers |= layers.own(name, *buffers)
    children = {"affine": layers.linear(f"{name}.affine")}
    return layers.module("SynthesisLayer", module_state(attributes, layers.own(name, "weight", "bias"), buffers, children))
