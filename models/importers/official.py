"""Reader of stylegan2-ada-pytorch and of the StyleGAN2 in the stylegan3 repository.

The file is a pickle of modules. Settings come from the attributes of the modules, which the official code would use, and
from the shapes of the weights. The arguments of the constructor serve only where several `channel_base` would fit; they are
nested in one repository and flat in the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, UnsupportedNetworkError, printable
from stylert.models.importers.official_modules import (
    architecture_of,
    augment_strength,
    blocks_of,
    check_activations,
    check_filters,
    constructor_arguments,
    fp16_resolutions,
    mapping_layers,
    minibatch_std_settings,
    modules_by_name,
    only_value,
    read_filter,
    setting,
    settings_of,
    tensors_by_name,
)
from stylert.models.importers.records import StoredModule
from stylert.models.importers.settings import (
    channel_settings,
    fir_taps,
    mapping_gain,
    mapping_gain_notes,
    valid_configuration,
)
from stylert.models.importers.weights import (
    Arrays,
    ImportedNetworks,
    TensorReader,
    drop_if_unsupported,
    dropped_entries,
    mean_latent,
    network_arrays,
)
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER, W_AVG_BETA, DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.state_dict import discriminator_shapes, generator_shapes


def read_official(content: dict[Any, Any] | StoredModule, training: bool, budget: Budget) -> ImportedNetworks:
    """Read the networks of `{G, D, G_ema, ...}`; G and D only when `training`. Raises FormatError.

    Tools that adapt a trained generator leave it alone in a file. It then serves as G_ema.
    """
    alone = isinstance(content, StoredModule)
    data: dict[Any, Any] = {"G_ema": content} if isinstance(content, StoredModule) else content
    if not isinstance(data.get("G_ema"), StoredModule):
        raise FormatError("it holds no network G_ema")
    config, arrays, notes = _read_generator(data["G_ema"], "network" if alone else "G_ema", budget)
    if alone:
        notes.append("the file is a single generator: used as G_ema")
    networks = ImportedNetworks(config, arrays, notes=notes)
    if training:
        with drop_if_unsupported("G", notes):
            if isinstance(data.get("G"), StoredModule):
                raw_config, raw, _ = _read_generator(data["G"], "G", budget)
                if raw_config != config:
                    raise UnsupportedNetworkError("its configuration differs from that of G_ema")
                networks.raw = raw
        with drop_if_unsupported("D", notes):
            if isinstance(data.get("D"), StoredModule):
                if not data["D"].children():  # the official code wants a module where there is no discriminator
                    raise UnsupportedNetworkError("its D has no weights")
                networks.discriminator_config, networks.discriminator = _read_discriminator(data["D"], config, budget, notes)
    if isinstance(data.get("augment_pipe"), StoredModule):
        notes.append(f"dropped augment_pipe{augment_strength(data['augment_pipe'], budget)}: augmentation starts anew")
    notes += dropped_entries(set(data) - {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs"})
    return networks


# --- the two networks ----------------------------------------------------------------------------------------------


def _read_generator(module: StoredModule, network: str, budget: Budget) -> tuple[GeneratorConfig, Arrays, list[str]]:
    parts = module.children()
    if "synthesis" not in parts or "mapping" not in parts:
        raise FormatError(f"its {network} is a {printable(module.class_name)}, not a StyleGAN2 generator")
    synthesis, mapping = parts["synthesis"], parts["mapping"]
    blocks = blocks_of(synthesis, network)
    resolution = max(blocks)
    modules = modules_by_name(module)
    check_activations(modules, network, "SynthesisLayer")
    tensors = TensorReader(network, tensors_by_name(modules), budget)

    layers, lr = mapping_layers(mapping, network)
    arguments = constructor_arguments(module)
    channels = {res: tensors.shape(f"synthesis.b{res}.conv1.weight", 4)[0] for res in blocks}
    beta = setting(mapping, "w_avg_beta", network)
    clamps = settings_of(modules, ("SynthesisLayer", "ToRGBLayer"), "conv_clamp", network)
    taps = fir_taps(read_filter(tensors, "synthesis.b4.resample_filter"), f"synthesis.b4.resample_filter of {network}")
    # Forks for images that are not square begin with another constant. Their settings have many names, and its shape has one.
    _, const_height, const_width = tensors.shape("synthesis.b4.const", 3)
    fields: dict[str, Any] = {
        "resolution": resolution,
        "const_height": const_height,
        "const_width": const_width,
        "z_dim": setting(mapping, "z_dim", network),
        "c_dim": setting(mapping, "c_dim", network),
        "w_dim": setting(mapping, "w_dim", network),
        "img_channels": tensors.shape(f"synthesis.b{resolution}.torgb.weight", 4)[0],
        "mapping_layers": layers,
        "w_avg_beta": W_AVG_BETA if beta is None else beta,
        "num_fp16_res": fp16_resolutions(blocks, network),
        "conv_clamp": only_value(clamps, "conv_clamp", network),
        "resample_filter": taps,
        "architecture": architecture_of(blocks, network),
        **channel_settings(channels, arguments.get("channel_base"), arguments.get("channel_max")),
    }
    with valid_configuration(network):
        config = GeneratorConfig(**fields)
    if setting(mapping, "num_ws", network) != config.num_ws:
        num_ws = printable(mapping.state["num_ws"])
        raise UnsupportedNetworkError(f"its {network} has {num_ws} latents, StyleGAN2 has {config.num_ws}")

    notes: list[str] = []
    if beta is None:
        notes.append(f"{network} keeps no average of w: computed as the mean over random latents")
    notes += mapping_gain_notes(lr, network)
    use_noise = [bool(value) for value in settings_of(modules, ("SynthesisLayer",), "use_noise", network)]
    has_noise = only_value(use_noise, "use_noise", network)
    if not has_noise:
        notes.append(f"{network} has no noise inputs: imported with noise of strength 0")

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if "noise_" in name and not has_noise:
            return tensors.constant(shape, lambda: np.zeros(shape, np.float32))
        return tensors.read(name, shape)

    shapes = generator_shapes(config)
    if beta is None:
        del shapes["mapping.w_avg"]
    check_filters(tensors, shapes, taps, unused=r"synthesis\.b\d+\.conv1\.resample_filter")
    arrays = network_arrays(shapes, taps, read, mapping_gain(lr, network))
    if beta is None:
        arrays["mapping.w_avg"] = mean_latent(config, arrays)
    tensors.check_all_known()
    return config, arrays, notes


def _read_discriminator(
    module: StoredModule, generator: GeneratorConfig, budget: Budget, notes: list[str]
) -> tuple[DiscriminatorConfig, Arrays]:
    """Configuration and arrays. Its weights tell only the number of pixels at 4 px, so the sides are those of the generator."""
    network = "D"
    parts = module.children()
    blocks = blocks_of(module, network)
    resolution = max(blocks)
    modules = modules_by_name(module)
    check_activations(modules, network, "Conv2dLayer")
    tensors = TensorReader(network, tensors_by_name(modules), budget)

    channels = {res: tensors.shape(f"b{res}.conv0.weight", 4)[0] for res in blocks if res > 4}
    channels[4] = tensors.shape("b4.conv.weight", 4)[0]
    c_dim = setting(module, "c_dim", network)
    layers, lr = DiscriminatorConfig.mapping_layers, MAPPING_LR_MULTIPLIER
    if "mapping" in parts:
        layers, lr = mapping_layers(parts["mapping"], network)
        if not layers:
            raise UnsupportedNetworkError("its label mapping has no layers")
    arguments = constructor_arguments(module)
    group_size, num_channels = minibatch_std_settings(blocks[4], network)
    clamps = [
        setting(layer, "conv_clamp", network)
        for name, layer in modules.items()
        if layer.class_name == "Conv2dLayer" and not name.endswith("skip") and name != "b4.fromrgb"
    ]
    taps = fir_taps(read_filter(tensors, f"b{resolution}.resample_filter"), "of D")
    fields: dict[str, Any] = {
        "resolution": resolution,
        "const_height": generator.const_height,
        "const_width": generator.const_width,
        "c_dim": c_dim,
        "img_channels": tensors.shape(f"b{resolution}.fromrgb.weight", 4)[1],
        "architecture": architecture_of(blocks, network),
        "mapping_layers": layers,
        "mbstd_group_size": group_size,
        "mbstd_num_channels": num_channels,
        "num_fp16_res": fp16_resolutions(blocks, network),
        "conv_clamp": only_value(clamps, "conv_clamp", network),
        "resample_filter": taps,
        **channel_settings(channels, arguments.get("channel_base"), arguments.get("channel_max")),
    }
    with valid_configuration(network):
        config = DiscriminatorConfig(**fields)
    if config.c_dim:
        features = tensors.shape("b4.out.weight", 2)[0]
        if features != config.cmap_dim:
            raise UnsupportedNetworkError(f"its labels are mapped to {features} features, not {config.cmap_dim}")

    notes += mapping_gain_notes(lr, network)
    buffers = [m.state["_buffers"] for m in modules.values() if isinstance(m.state.get("_buffers"), dict)]
    if any("weight" in names for names in buffers):
        notes.append("D had frozen layers: they are trainable again")
    shapes = discriminator_shapes(config)
    check_filters(tensors, shapes, taps, unused=r"b4\.conv\.\w+|b\d+\.(conv0|fromrgb)\.\w+")
    arrays = network_arrays(shapes, taps, tensors.read, mapping_gain(lr, network))
    tensors.check_all_known()
    return config, arrays
