"""StyleGAN2's networks as pickles of stylegan2-ada-pytorch and stylegan3 hold them. The attributes are those of both projects."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from stylert.models.converters.official_records import Arrays, OfficialLayers, generator_sizes, module_state
from stylert.models.converters.pickle_writer import Call
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig

LRELU_GAIN = math.sqrt(2)


# --- generator -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GeneratorModule:
    """Makes the modules of a generator.

    Attributes:
        cfg: Its configuration.
        source: Source text of the classes.
        nests_arguments: Whether its constructor takes the arguments of the synthesis network together.
    """

    cfg: GeneratorConfig
    source: str
    nests_arguments: bool

    def module(self, arrays: Arrays) -> Call:
        """The whole generator."""
        cfg, layers = self.cfg, OfficialLayers(self.source, arrays)
        mapping = layers.mapping(cfg.z_dim, cfg.c_dim, cfg.w_dim, cfg.num_ws, cfg.mapping_layers, cfg.w_avg_beta)
        sizes = generator_sizes(cfg)
        synthesis_arguments = {
            "channel_base": cfg.channel_base,
            "channel_max": cfg.channel_max,
            "num_fp16_res": cfg.num_fp16_res,
            "architecture": cfg.architecture,
            "resample_filter": _taps(cfg.resample_filter),
            "conv_clamp": cfg.conv_clamp,
        }
        given = {"synthesis_kwargs": synthesis_arguments} if self.nests_arguments else synthesis_arguments
        mapping_arguments = {"num_layers": cfg.mapping_layers, "w_avg_beta": cfg.w_avg_beta}
        children = {"synthesis": self._synthesis(layers, synthesis_arguments), "mapping": mapping}
        return layers.module(
            "Generator",
            module_state(
                {**sizes, "num_ws": cfg.num_ws},
                children=children,
                arguments={**sizes, "mapping_kwargs": mapping_arguments, **given},
            ),
        )

    def _synthesis(self, layers: OfficialLayers, arguments: dict[str, Any]) -> Call:
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
        return layers.module("SynthesisNetwork", module_state(attributes, children=blocks, arguments={**sizes, **arguments}))

    def _block(self, layers: OfficialLayers, res: int) -> Call:
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
            children["skip"] = _conv(layers, f"{name}.skip", "linear", up=2)
        state = module_state(attributes, layers.own(name, "const"), layers.own(name, "resample_filter"), children)
        return layers.module("SynthesisBlock", state)

    def _layer(self, layers: OfficialLayers, name: str, res: int) -> Call:
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
            return layers.module("ToRGBLayer", module_state(attributes, layers.own(name, "weight", "bias"), None, children))
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
        return layers.module("SynthesisLayer", module_state(attributes, parameters, buffers, children))


# --- discriminator -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiscriminatorModule:
    """Makes the modules of a discriminator.

    Attributes:
        cfg: Its configuration.
        source: Source text of the classes.
    """

    cfg: DiscriminatorConfig
    source: str

    def module(self, arrays: Arrays) -> Call:
        """The whole discriminator."""
        cfg, layers = self.cfg, OfficialLayers(self.source, arrays)
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
        return layers.module("Discriminator", module_state(attributes, children=children, arguments=arguments))

    def _parts(self, layers: OfficialLayers, res: int) -> dict[str, Call]:
        name, clamp = f"b{res}", self.cfg.conv_clamp
        parts = {"fromrgb": _conv(layers, f"{name}.fromrgb", clamp=clamp)} if f"{name}.fromrgb.weight" in layers.arrays else {}
        parts["conv0"] = _conv(layers, f"{name}.conv0", clamp=clamp)
        parts["conv1"] = _conv(layers, f"{name}.conv1", down=2, clamp=clamp)
        if self.cfg.architecture == "resnet":
            parts["skip"] = _conv(layers, f"{name}.skip", "linear", down=2)
        return parts

    def _block(self, layers: OfficialLayers, res: int, parts: dict[str, Call], first: int) -> Call:
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
        return layers.module(
            "DiscriminatorBlock", module_state(attributes, None, layers.own(f"b{res}", "resample_filter"), parts)
        )

    def _epilogue(self, layers: OfficialLayers) -> Call:
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
            children["fromrgb"] = _conv(layers, "b4.fromrgb")
        if cfg.mbstd_num_channels:
            settings = {"group_size": cfg.mbstd_group_size, "num_channels": cfg.mbstd_num_channels}
            children["mbstd"] = layers.module("MinibatchStdLayer", module_state(settings, arguments=settings))
        children["conv"] = _conv(layers, "b4.conv", clamp=cfg.conv_clamp)
        children["fc"] = layers.linear("b4.fc", "lrelu")
        children["out"] = layers.linear("b4.out")
        return layers.module("DiscriminatorEpilogue", module_state(attributes, children=children))


def _taps(taps: tuple[float, ...]) -> list[float]:
    """As the official code has them in its arguments: whole numbers where they are."""
    return [int(tap) if tap == int(tap) else tap for tap in taps]


def _conv(
    layers: OfficialLayers, name: str, activation: str = "lrelu", up: int = 1, down: int = 1, clamp: float | None = None
) -> Call:
    """A convolution without modulation."""
    weight = layers.arrays[f"{name}.weight"]
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
    parameters = layers.own(name, "weight", "bias")
    if "bias" not in parameters:
        attributes["bias"] = None
    return layers.module("Conv2dLayer", module_state(attributes, parameters, layers.own(name, "resample_filter")))
