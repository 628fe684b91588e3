"""Name and shape of every tensor in a StyleGAN3 state dict, from the configuration alone. No torch.

The names are those of the official PyTorch implementation, such as `synthesis.L3_52_512.affine.weight`.
"""

from __future__ import annotations

from stylert.models.stylegan3.config import GeneratorConfig

Shapes = dict[str, tuple[int, ...]]

#: The last words of the names of buffers, which no training step changes.
BUFFERS = ("freqs", "phases", "transform", "magnitude_ema", "up_filter", "down_filter", "w_avg")


def generator_shapes(cfg: GeneratorConfig) -> Shapes:
    """The tensors of the generator: Fourier features, layers, mapping network, running averages."""
    channels = cfg.input_channels
    shapes: Shapes = {
        "synthesis.input.weight": (channels, channels),
        "synthesis.input.affine.weight": (4, cfg.w_dim),
        "synthesis.input.affine.bias": (4,),
        "synthesis.input.freqs": (channels, 2),
        "synthesis.input.phases": (channels,),
        "synthesis.input.transform": (3, 3),
    }
    for layer in cfg.layers():
        name = f"synthesis.{layer.name}"
        shapes[f"{name}.weight"] = (layer.out_channels, layer.in_channels, layer.kernel, layer.kernel)
        shapes[f"{name}.bias"] = (layer.out_channels,)
        shapes[f"{name}.magnitude_ema"] = ()
        shapes[f"{name}.affine.weight"] = (layer.in_channels, cfg.w_dim)
        shapes[f"{name}.affine.bias"] = (layer.in_channels,)
        if layer.up_taps > 1:
            shapes[f"{name}.up_filter"] = (layer.up_taps,)
        if layer.down_taps > 1:
            shapes[f"{name}.down_filter"] = (layer.down_taps,) * (2 if layer.is_radial else 1)
    if cfg.c_dim:
        shapes["mapping.embed.weight"] = (cfg.w_dim, cfg.c_dim)
        shapes["mapping.embed.bias"] = (cfg.w_dim,)
    width = cfg.z_dim + (cfg.w_dim if cfg.c_dim else 0)
    for i in range(cfg.mapping_layers):
        shapes[f"mapping.fc{i}.weight"] = (cfg.w_dim, width)
        shapes[f"mapping.fc{i}.bias"] = (cfg.w_dim,)
        width = cfg.w_dim
    shapes["mapping.w_avg"] = (cfg.w_dim,)
    return shapes
