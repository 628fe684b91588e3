"""Name and shape of every tensor in a StyleGAN2 state dict, from the configuration alone. No torch.

The names are those of the official PyTorch implementation, such as `synthesis.b8.conv0.affine.weight`.
"""

from __future__ import annotations

from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig

Shapes = dict[str, tuple[int, ...]]

#: The last words of the names of buffers, which no training step changes.
BUFFERS = ("noise_const", "resample_filter", "w_avg")


def generator_shapes(cfg: GeneratorConfig) -> Shapes:
    """The tensors of the generator: synthesis network, mapping network, running average of w."""
    shapes: Shapes = {}
    taps = len(cfg.resample_filter)
    for res in cfg.block_resolutions:
        shapes[f"synthesis.b{res}.resample_filter"] = (taps, taps)
    shapes["synthesis.b4.const"] = (cfg.channels(4), cfg.const_height, cfg.const_width)
    for layer in cfg.layers():
        name = f"synthesis.{layer.name}"
        shapes |= _linear(f"{name}.affine", cfg.w_dim, layer.in_channels)
        shapes[f"{name}.weight"] = (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
        shapes[f"{name}.bias"] = (layer.out_channels,)
        if layer.kind == "conv":
            shapes[f"{name}.noise_const"] = (layer.height, layer.width)
            shapes[f"{name}.noise_strength"] = ()
            shapes[f"{name}.resample_filter"] = (taps, taps)
    for res, (inner, outer) in cfg.shortcuts().items():
        shapes[f"synthesis.b{res}.skip.weight"] = (outer, inner, 1, 1)
        shapes[f"synthesis.b{res}.skip.resample_filter"] = (taps, taps)
    shapes |= _mapping(cfg.z_dim, cfg.c_dim, cfg.w_dim, cfg.mapping_layers)
    shapes["mapping.w_avg"] = (cfg.w_dim,)
    return shapes


def discriminator_shapes(cfg: DiscriminatorConfig) -> Shapes:
    """The tensors of the discriminator, with its label mapping where it takes labels."""
    shapes: Shapes = {}
    taps = len(cfg.resample_filter)

    def conv(name: str, inner: int, outer: int, kernel: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outer, inner, kernel, kernel)
        shapes[f"{name}.resample_filter"] = (taps, taps)
        if bias:
            shapes[f"{name}.bias"] = (outer,)

    for res in cfg.block_resolutions:
        inner, outer = cfg.channels(res), cfg.channels(res // 2)
        shapes[f"b{res}.resample_filter"] = (taps, taps)
        if res == cfg.resolution or cfg.architecture == "skip":
            conv(f"b{res}.fromrgb", cfg.img_channels, inner, 1)
        conv(f"b{res}.conv0", inner, inner, 3)
        conv(f"b{res}.conv1", inner, outer, 3)
        if cfg.architecture == "resnet":
            conv(f"b{res}.skip", inner, outer, 1, bias=False)
    channels = cfg.channels(4)
    if cfg.architecture == "skip":
        conv("b4.fromrgb", cfg.img_channels, channels, 1)
    conv("b4.conv", channels + cfg.mbstd_num_channels, channels, 3)
    shapes |= _linear("b4.fc", channels * cfg.const_height * cfg.const_width, channels)
    shapes |= _linear("b4.out", channels, cfg.cmap_dim or 1)
    if cfg.c_dim:
        shapes |= _mapping(0, cfg.c_dim, cfg.cmap_dim, cfg.mapping_layers)
    return shapes


def _mapping(z_dim: int, c_dim: int, w_dim: int, layers: int) -> Shapes:
    shapes: Shapes = {}
    if c_dim:
        shapes |= _linear("mapping.embed", c_dim, w_dim)
    width = z_dim + (w_dim if c_dim else 0)
    for i in range(layers):
        shapes |= _linear(f"mapping.fc{i}", width, w_dim)
        width = w_dim
    return shapes


def _linear(name: str, fan_in: int, fan_out: int) -> Shapes:
    return {f"{name}.weight": (fan_out, fan_in), f"{name}.bias": (fan_out,)}
