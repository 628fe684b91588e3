"""Reader of rosinality/stylegan2-pytorch: state dicts under other names, with settings that follow from the shapes.

Its generator has the skip architecture and its discriminator the residual one. Neither has labels, half precision or
clamping. The mapping layers have our learning rate multiplier.

Its code scales a weight by `1 / sqrt(fan_in)` in front of the demodulation, which the official code does not do. The
epsilon under the square root then counts `fan_in` times as much; nothing else differs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, UnsupportedNetworkError, printable
from stylert.models.importers.records import StoredObject, StoredTensor
from stylert.models.importers.rosinality_names import (
    discriminator_blocks,
    discriminator_names,
    generator_names,
    stored_shape,
)
from stylert.models.importers.settings import channel_settings, epsilon_note, fir_filter, valid_configuration
from stylert.models.importers.weights import (
    Arrays,
    ImportedNetworks,
    TensorReader,
    drop_if_unsupported,
    dropped_entries,
    mean_latent,
    network_arrays,
)
from stylert.models.stylegan2.config import FIR_TAPS, DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.state_dict import discriminator_shapes, generator_shapes

#: Samples per group of the minibatch standard deviation, a constant of the code.
MBSTD_GROUP_SIZE = 4
MAX_BLOCKS = 10
#: The entry by which stylert knows a file that it wrote.
WRITER_ENTRY = "stylert"
MAX_LAYERS = 64


def is_rosinality(data: Mapping[Any, Any]) -> bool:
    """Whether this is a checkpoint of rosinality's code, or the bare state dict of its generator."""
    return any(type(data.get(key)) is dict for key in ("g_ema", "g")) or "input.input" in data


def read_rosinality(data: dict[Any, Any], training: bool, budget: Budget) -> ImportedNetworks:
    """Read the networks of `{g, d, g_ema, latent_avg, ...}`; g and d only when `training`. Raises FormatError."""
    notes = [epsilon_note("rosinality's code")]
    network = next((key for key in ("g_ema", "g") if type(data.get(key)) is dict), None)
    if network is None:
        state, network = data, "state dict"
        notes.append("the file is a bare state dict of a generator: used as g_ema")
    else:
        state = data[network]
        if network == "g":
            notes.append("the file has no g_ema: g is used as g_ema")
    is_bare = network == "state dict"
    arguments = data.get("args")
    if isinstance(arguments, StoredObject) and arguments.state.get("arch", "stylegan2") != "stylegan2":
        architecture = printable(arguments.state["arch"])
        raise UnsupportedNetworkError(f"its architecture is {architecture}; stylert reads stylegan2")
    config, arrays = _read_generator(state, network, budget, notes)
    average = None if is_bare else data.get("latent_avg")
    if isinstance(average, StoredTensor):
        if average.shape not in ((config.w_dim,), (1, config.w_dim)):
            raise FormatError(f"latent_avg is {list(average.shape)}, the network needs {[config.w_dim]}")
        tensors = TensorReader(network, {"latent_avg": average}, budget)
        arrays["mapping.w_avg"] = tensors.read("latent_avg", average.shape).reshape(config.w_dim)
    else:
        arrays["mapping.w_avg"] = mean_latent(config, arrays)
        notes.append("the file has no latent_avg: computed as the mean over random latents")
    networks = ImportedNetworks(config, arrays, notes=notes)
    if training:
        _read_training_networks(data, network, networks, budget)
    if not is_bare:
        notes += dropped_entries(set(data) - {"g", "d", "g_ema", "latent_avg", WRITER_ENTRY})
    return networks


def _read_training_networks(data: dict[Any, Any], averaged: str, networks: ImportedNetworks, budget: Budget) -> None:
    """Add g and d to `networks`. `averaged` is the entry that serves as g_ema."""
    if type(data.get("g")) is dict and averaged != "g":
        config, raw = _read_generator(data["g"], "g", budget, [])
        if config != networks.config:
            networks.notes.append("dropped g: its configuration differs from that of g_ema")
        else:
            networks.raw = {**raw, "mapping.w_avg": networks.generator["mapping.w_avg"]}
    if type(data.get("d")) is dict:
        with drop_if_unsupported("d", networks.notes):
            networks.discriminator_config, networks.discriminator = _read_discriminator(
                data["d"], networks.generator["synthesis.b4.const"].shape, budget
            )


# --- generator -----------------------------------------------------------------------------------------------------


def _read_generator(state: dict[Any, Any], network: str, budget: Budget, notes: list[str]) -> tuple[GeneratorConfig, Arrays]:
    """Configuration and arrays without `mapping.w_avg`, which the file keeps beside the state dict."""
    tensors = TensorReader(network, _tensors(state, network), budget)
    if any("iwt" in name or "dwt" in name for name in tensors.tensors):
        raise UnsupportedNetworkError(f"its {network} is a SWAGAN generator; stylert reads StyleGAN2")
    blocks = _count(tensors, r"to_rgbs\.(\d+)\.bias", maximum=MAX_BLOCKS)
    channels = {4: tensors.shape("input.input", 4)[1]}
    channels |= {8 << i: tensors.shape(f"convs.{2 * i + 1}.conv.weight", 5)[1] for i in range(blocks)}
    w_dim, z_dim = tensors.shape("style.1.weight", 2)
    if z_dim != w_dim:  # the code has one width for both
        raise UnsupportedNetworkError(
            f"its {network} maps inputs of width {z_dim} to latents of width {w_dim}: it is a conditional network whose "
            "class embedding the file does not hold"
        )
    *_, const_height, const_width = tensors.shape("input.input", 4)
    fields: dict[str, Any] = {
        "resolution": 4 << blocks,
        "const_height": const_height,
        "const_width": const_width,
        "z_dim": z_dim,
        "w_dim": w_dim,
        "img_channels": tensors.shape("to_rgb1.bias", 4)[1],
        "mapping_layers": _count(tensors, r"style\.(\d+)\.weight", first=1, maximum=MAX_LAYERS),
        **channel_settings(channels),
    }
    with valid_configuration(network):
        config = GeneratorConfig(**fields)
    names = generator_names(blocks, config.mapping_layers)
    has_noise = any(name.startswith("noises.") for name in tensors.tensors)
    if not has_noise:
        notes.append(f"{network} keeps no noise: drawn from seed 0")
    rng = np.random.default_rng(0)

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("noise_const") and not has_noise:
            return tensors.constant(shape, lambda: rng.standard_normal(shape, np.float32))
        return tensors.read(names[name], stored_shape(name, shape)).reshape(shape)

    shapes = generator_shapes(config)
    del shapes["mapping.w_avg"]
    arrays = network_arrays(shapes, FIR_TAPS, read)
    _check_blur_kernels(tensors)
    tensors.check_all_known()
    return config, arrays


# --- discriminator -------------------------------------------------------------------------------------------------


def _read_discriminator(state: dict[Any, Any], const: tuple[int, ...], budget: Budget) -> tuple[DiscriminatorConfig, Arrays]:
    """Configuration and arrays. `const` is the shape `[C, H, W]` of the generator's constant, whose sides D shares."""
    tensors = TensorReader("d", _tensors(state, "d"), budget)
    count = _count(tensors, r"convs\.(\d+)\.skip\.1\.weight", first=1, maximum=MAX_BLOCKS)
    resolution = 4 << count
    blocks = discriminator_blocks(resolution, count)
    channels = {res: tensors.shape(f"{block}.conv1.0.weight", 4)[0] for res, block in blocks.items()}
    channels[4] = tensors.shape("final_conv.0.weight", 4)[0]
    fields: dict[str, Any] = {
        "resolution": resolution,
        "const_height": const[1],
        "const_width": const[2],
        "img_channels": tensors.shape("convs.0.0.weight", 4)[1],
        "mbstd_group_size": MBSTD_GROUP_SIZE,
        **channel_settings(channels),
    }
    with valid_configuration("d"):
        config = DiscriminatorConfig(**fields)
    names = discriminator_names(resolution, blocks)
    shapes = discriminator_shapes(config)
    arrays = network_arrays(shapes, FIR_TAPS, lambda name, shape: tensors.read(names[name], shape))
    _check_blur_kernels(tensors)
    tensors.check_all_known()
    return config, arrays


# --- both networks -------------------------------------------------------------------------------------------------


def _tensors(state: dict[Any, Any], network: str) -> dict[str, StoredTensor]:
    if not all(isinstance(name, str) and isinstance(value, StoredTensor) for name, value in state.items()):
        raise FormatError(f"its {network} is not a state dict")
    # DataParallel puts this in front of every name.
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _count(tensors: TensorReader, pattern: str, maximum: int, first: int = 0) -> int:
    """How many names match. Their numbers must run from `first` without a gap."""
    matches = [re.fullmatch(pattern, name) for name in tensors.tensors]
    numbers = sorted(int(match[1]) for match in matches if match and len(match[1]) < 4)
    if numbers != list(range(first, first + len(numbers))) or len(numbers) > maximum:
        raise FormatError(f"the layers of its {tensors.network} are not numbered as rosinality's")
    return len(numbers)


def _check_blur_kernels(tensors: TensorReader) -> None:
    """Check that every blur kernel has our taps. Both codes keep them as constants."""
    expected = fir_filter(FIR_TAPS)
    for name in [name for name in tensors.tensors if name.endswith(".kernel")]:
        kernel = tensors.read(name, (4, 4))
        if not any(np.allclose(kernel, expected * gain, rtol=1e-3, atol=1e-6) for gain in (1, 4)):
            raise UnsupportedNetworkError(f"its {tensors.network} has another blur than [1, 3, 3, 1] in {printable(name)}")
