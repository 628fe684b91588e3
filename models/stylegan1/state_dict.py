"""Name and shape of every tensor in a StyleGAN1 state dict, from the configuration alone. No torch.

The names are those of StyleGAN2's official PyTorch implementation, as far as the networks agree.
"""

from __future__ import annotations

from stylert.models.stylegan1.config import GeneratorConfig

Shapes = dict[str, tuple[int, ...]]

#: The last words of the names of buffers, which no training step changes.
BUFFERS = ("noise_const", "w_avg")


def generator_shapes(cfg: GeneratorConfig) -> Shapes:
    """The tensors of the generator: synthesis network, mapping network, running average of w.

    A style has the factors of all channels, and then their offsets. Noise has a strength for each channel.
    """
    shapes: Shapes = {}
    for layer in cfg.layers():
        name, channels = f"synthesis.{layer.name}", layer.out_channels
        if layer.kind == "const":
            shapes[f"{name}.const"] = (channels, 4, 4)
        else:
            shapes[f"{name}.weight"] = (channels, layer.in_channels, layer.kernel, layer.kernel)
        shapes[f"{name}.bias"] = (channels,)
        if layer.kind == "torgb":
            continue
        shapes[f"{name}.noise_const"] = (layer.resolution, layer.resolution)
        shapes[f"{name}.noise_strength"] = (channels,)
        shapes[f"{name}.affine.weight"] = (2 * channels, cfg.w_dim)
        shapes[f"{name}.affine.bias"] = (2 * channels,)
    width = cfg.z_dim
    if cfg.c_dim:
        shapes["mapping.label_embed.weight"] = (cfg.z_dim, cfg.c_dim)
        width += cfg.z_dim
    for i in range(cfg.mapping_layers):
        shapes[f"mapping.fc{i}.weight"] = (cfg.w_dim, width)
        shapes[f"mapping.fc{i}.bias"] = (cfg.w_dim,)
        width = cfg.w_dim
    shapes["mapping.w_avg"] = (cfg.w_dim,)
    return shapes
