"""Readers of StyleGAN1's ports to PyTorch: state dicts under other names, with settings that follow from the shapes.

- rosinality's style-based-gan-pytorch has a network of 1024 px in every file, of which a run trains the lower blocks. Its
  upsampling layers add the bias in front of the blur, and both layers of a block share their noise.
- lernapparat's port has the layouts of TensorFlow under PyTorch's order of axes.

Neither has labels, and neither keeps noise. The instance norm of both is that of PyTorch, with its greater epsilon.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, UnsupportedNetworkError, printable
from stylert.models.importers.records import StoredTensor
from stylert.models.importers.settings import channel_settings, valid_configuration
from stylert.models.importers.tensorflow_stylegan1 import MIN_FUSED_RESOLUTION
from stylert.models.importers.weights import Arrays, ImportedNetworks, TensorReader, dropped_entries, mean_latent
from stylert.models.stylegan1.config import BLUR_TAPS, GeneratorConfig, LayerSpec
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER
from stylert.plugins.constants import ACTIVATION_GAIN

#: The epsilon of PyTorch's instance norm.
PYTORCH_NORM_EPS = 1e-5
MAX_BLOCKS = 11
MAX_MAPPING_LAYERS = 64

ROSINALITY_KEY = "generator.progression.0.conv1.input"
LERNAPPARAT_KEY = "g_synthesis.blocks.4x4.const"


@dataclass(frozen=True)
class Port:
    """One port.

    Attributes:
        project: Its name, for people.
        read: Reads the networks of a file. Raises FormatError.
    """

    project: str
    read: Callable[[Any, bool, Budget], ImportedNetworks]


def stylegan1_port(data: Mapping[Any, Any]) -> Port | None:
    """The port that wrote a file, from its content, or None if it is another file."""
    if _rosinality_state(data) is not None:
        return Port("rosinality's style-based-gan-pytorch", _read_rosinality)
    if LERNAPPARAT_KEY in _names(data):
        return Port("lernapparat's StyleGAN", _read_lernapparat)
    return None


def _names(state: Mapping[Any, Any]) -> set[str]:
    """The names of a state dict without what DataParallel puts in front of them."""
    return {name.removeprefix("module.") for name in state if isinstance(name, str)}


def _tensors(state: Mapping[Any, Any], network: str, budget: Budget) -> TensorReader:
    if not all(isinstance(name, str) and isinstance(value, StoredTensor) for name, value in state.items()):
        raise FormatError(f"its {network} is not a state dict")
    tensors = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return TensorReader(network, tensors, budget, GeneratorConfig.title)


# --- rosinality ------------------------------------------------------------------------------------------------------


def _rosinality_state(data: Mapping[Any, Any]) -> tuple[str, Mapping[Any, Any]] | None:
    """The averaged generator, or the one that a file has in its place, and its entry."""
    for entry in ("g_running", "generator"):
        if type(data.get(entry)) is dict and ROSINALITY_KEY in _names(data[entry]):
            return entry, data[entry]
    return ("state dict", data) if ROSINALITY_KEY in _names(data) else None


def _read_rosinality(data: dict[Any, Any], training: bool, budget: Budget) -> ImportedNetworks:
    found = _rosinality_state(data)
    assert found is not None
    network, state = found
    tensors = _tensors(state, network, budget)
    blocks = _count(tensors, r"generator\.progression\.(\d+)\.conv2\.conv\.weight_orig", MAX_BLOCKS)
    if blocks < 2:
        raise FormatError(f"its {network} has fewer than two blocks")
    channels = {4 << i: tensors.shape(f"generator.progression.{i}.conv2.conv.bias", 1)[0] for i in range(blocks)}
    trained = _trained_blocks(tensors, channels)
    notes = ["the average of w is not in the file: computed as the mean over random latents"]
    if trained < blocks:
        notes.append(f"the blocks above {2 << trained} px were never trained: left out, with {blocks - trained} torgb layers")
    channels = {res: count for res, count in channels.items() if res <= 2 << trained}
    config = _configuration(
        tensors,
        channels,
        [f"style.{i}.linear.weight_orig" for i in _mapping_numbers(tensors)],
        tensors.shape(f"generator.to_rgb.{trained - 1}.conv.bias", 1)[0],
        bias_before_blur=True,
    )
    arrays: Arrays = {}
    for spec in config.layers():
        arrays |= _rosinality_layer(tensors, spec, config)
    for i, number in enumerate(_mapping_numbers(tensors)):
        name = f"style.{number}.linear"
        arrays |= _mapping_layer(tensors, f"{name}.weight_orig", f"{name}.bias", i, 1 / MAPPING_LR_MULTIPLIER)
    arrays |= _noise(config, tensors, shared=True)
    notes.append(f"{network} keeps no noise: drawn from seed 0, the same for both layers of a resolution")
    beyond = tuple(f"generator.{part}.{i}." for part in ("progression", "to_rgb") for i in range(trained, blocks))
    unused = tuple(f"generator.to_rgb.{i}." for i in range(trained))
    tensors.ignore(name for name in tensors.tensors if name.startswith(beyond + unused))
    tensors.check_all_known()
    arrays["mapping.w_avg"] = mean_latent(config, arrays)
    if network != "state dict":
        notes += dropped_entries(set(data) - {network})
    if network == "generator":
        notes.append("the file has no g_running: generator is used as G_ema")
    return ImportedNetworks(config, arrays, notes=notes)


def _trained_blocks(tensors: TensorReader, channels: Mapping[int, int]) -> int:
    """How many blocks were trained. Noise strengths and biases of the others still have their first value, zero."""
    for i, (res, count) in reversed(list(enumerate(channels.items()))):
        block = f"generator.progression.{i}"
        values = [
            tensors.read(f"{block}.noise1.weight_orig", (1, count, 1, 1)),
            tensors.read(f"{block}.noise2.weight_orig", (1, count, 1, 1)),
            tensors.read(f"{block}.conv2.conv.bias", (count,)),
            tensors.read(name := f"generator.to_rgb.{i}.conv.bias", tensors.shape(name, 1)),
        ]
        if any(value.any() for value in values):
            return max(i + 1, 2)  # at least 8 px
        if res == 4:
            break
    raise FormatError(f"its {tensors.network} was never trained: all strengths of noise and all biases are zero")


def _rosinality_layer(tensors: TensorReader, spec: LayerSpec, config: GeneratorConfig) -> Arrays:
    """The tensors of one layer under our names, but for its noise."""
    index, channels = spec.resolution.bit_length() - 3, spec.out_channels
    name, block = f"synthesis.{spec.name}", f"generator.progression.{index}"
    kernel_shape = (channels, spec.in_channels, spec.kernel, spec.kernel)
    if spec.kind == "torgb":  # the gain of the port is that of a layer in front of a leaky ReLU
        conv = f"generator.to_rgb.{index}.conv"
        weight = tensors.read(f"{conv}.weight_orig", kernel_shape) * np.float32(ACTIVATION_GAIN["lrelu"])
        return {f"{name}.weight": weight, f"{name}.bias": tensors.read(f"{conv}.bias", (channels,))}
    number = 1 + spec.ws_index % 2
    layer, arrays = f"{block}.conv{number}", Arrays()
    if spec.kind == "const":
        arrays[f"{name}.const"] = tensors.read(f"{layer}.input", (1, channels, 4, 4)).reshape(channels, 4, 4)
        arrays[f"{name}.bias"] = np.zeros(channels, np.float32)
    elif spec.up == 2 and f"{layer}.0.weight" in tensors:
        # A transposed convolution with the mean of the four shifts of its kernel, where ours has their sum.
        weight = tensors.read(f"{layer}.0.weight", (spec.in_channels, channels, 3, 3)).transpose(1, 0, 2, 3)
        arrays[f"{name}.weight"] = np.ascontiguousarray(weight[:, :, ::-1, ::-1]) / np.float32(4)
        arrays[f"{name}.bias"] = tensors.read(f"{layer}.0.bias", (channels,))
        _check_blur(tensors, f"{layer}.1", channels)
    else:
        conv = f"{layer}.1.conv" if spec.up == 2 else f"{layer}.conv"
        arrays[f"{name}.weight"] = tensors.read(f"{conv}.weight_orig", kernel_shape)
        arrays[f"{name}.bias"] = tensors.read(f"{conv}.bias", (channels,))
        if spec.up == 2:
            _check_blur(tensors, f"{layer}.2", channels)
    strength = tensors.read(f"{block}.noise{number}.weight_orig", (1, channels, 1, 1)).reshape(channels)
    arrays[f"{name}.noise_strength"] = strength * np.float32(math.sqrt(2 / channels))
    style = f"{block}.adain{number}.style.linear"
    weight = tensors.read(f"{style}.weight_orig", (2 * channels, config.w_dim))
    arrays[f"{name}.affine.weight"] = weight * np.float32(ACTIVATION_GAIN["lrelu"])
    arrays[f"{name}.affine.bias"] = tensors.read(f"{style}.bias", (2 * channels,))
    return arrays


def _check_blur(tensors: TensorReader, name: str, channels: int) -> None:
    """Check that the blur of a layer is ours."""
    expected = np.outer(BLUR_TAPS, BLUR_TAPS) / sum(BLUR_TAPS) ** 2
    for kernel in (f"{name}.weight", f"{name}.weight_flip"):
        if not np.allclose(tensors.read(kernel, (channels, 1, 3, 3)), expected, atol=1e-4):
            raise UnsupportedNetworkError(f"its {tensors.network} has another blur than [1, 2, 1] in {printable(kernel)}")


def _mapping_numbers(tensors: TensorReader) -> list[int]:
    """The numbers of the mapping layers among the modules of `style`: 1, 3, 5, ..."""
    count = sum(bool(re.fullmatch(r"style\.\d{1,4}\.linear\.weight_orig", name)) for name in tensors.tensors)
    numbers = [2 * i + 1 for i in range(count)]
    if not 1 <= count <= MAX_MAPPING_LAYERS or any(f"style.{i}.linear.weight_orig" not in tensors for i in numbers):
        raise FormatError(f"the mapping layers of its {tensors.network} are not numbered as rosinality's")
    return numbers


# --- lernapparat -----------------------------------------------------------------------------------------------------


def _read_lernapparat(data: dict[Any, Any], training: bool, budget: Budget) -> ImportedNetworks:
    network = "state dict"
    tensors = _tensors(data, network, budget)
    channels, res = {4: tensors.shape("g_synthesis.blocks.4x4.bias", 1)[0]}, 8
    while f"g_synthesis.blocks.{res}x{res}.conv1.bias" in tensors and len(channels) < MAX_BLOCKS:
        channels[res] = tensors.shape(f"g_synthesis.blocks.{res}x{res}.conv1.bias", 1)[0]
        res *= 2
    depth = _count(tensors, r"g_mapping\.dense(\d+)\.weight", MAX_MAPPING_LAYERS)
    config = _configuration(
        tensors,
        channels,
        [f"g_mapping.dense{i}.weight" for i in range(depth)],
        tensors.shape("g_synthesis.torgb.bias", 1)[0],
    )
    arrays: Arrays = {}
    for spec in config.layers():
        arrays |= _lernapparat_layer(tensors, spec, config)
    for i in range(depth):
        arrays |= _mapping_layer(tensors, f"g_mapping.dense{i}.weight", f"g_mapping.dense{i}.bias", i, 1.0)
    arrays |= _noise(config, tensors, shared=False)
    notes = ["the file keeps no noise: drawn from seed 0"]
    average = "truncation.avg_latent"
    if average in tensors:
        shape = tensors.tensors[average].shape
        if math.prod(shape) != config.w_dim:
            raise FormatError(f"{average} is {list(shape)}, the network needs {[config.w_dim]}")
        arrays["mapping.w_avg"] = tensors.read(average, shape).reshape(config.w_dim)
    else:
        arrays["mapping.w_avg"] = mean_latent(config, arrays)
        notes.append("the average of w is not in the file: computed as the mean over random latents")
    tensors.check_all_known()
    return ImportedNetworks(config, arrays, notes=notes)


def _lernapparat_layer(tensors: TensorReader, spec: LayerSpec, config: GeneratorConfig) -> Arrays:
    """The tensors of one layer under our names, but for its noise."""
    name, channels = f"synthesis.{spec.name}", spec.out_channels
    kernel_shape = (channels, spec.in_channels, spec.kernel, spec.kernel)
    if spec.kind == "torgb":
        torgb = "g_synthesis.torgb"
        return {f"{name}.weight": tensors.read(f"{torgb}.weight", kernel_shape),
                f"{name}.bias": tensors.read(f"{torgb}.bias", (channels,))}  # fmt: skip
    block = f"g_synthesis.blocks.{spec.resolution}x{spec.resolution}"
    arrays = {}
    if spec.kind == "const":
        arrays[f"{name}.const"] = tensors.read(f"{block}.const", (1, channels, 4, 4)).reshape(channels, 4, 4)
        arrays[f"{name}.bias"] = tensors.read(f"{block}.bias", (channels,))
    else:
        layer = f"{block}." + ("conv" if spec.resolution == 4 else "conv0_up" if spec.up == 2 else "conv1")
        weight = tensors.read(f"{layer}.weight", kernel_shape)
        if spec.up == 2:
            kernel = tensors.read(f"{layer}.intermediate.kernel", (1, 1, 3, 3))
            if not np.allclose(kernel, np.outer(BLUR_TAPS, BLUR_TAPS) / sum(BLUR_TAPS) ** 2, atol=1e-4):
                raise UnsupportedNetworkError(f"its {tensors.network} has another blur than [1, 2, 1] in {layer}")
            if spec.resolution >= MIN_FUSED_RESOLUTION:  # the kernel of a transposed convolution
                weight = np.ascontiguousarray(weight[:, :, ::-1, ::-1])
        arrays[f"{name}.weight"] = weight
        arrays[f"{name}.bias"] = tensors.read(f"{layer}.bias", (channels,))
    epilogue = f"{block}.epi{1 + spec.ws_index % 2}"
    arrays[f"{name}.noise_strength"] = tensors.read(f"{epilogue}.top_epi.noise.weight", (channels,))
    style = f"{epilogue}.style_mod.lin"
    arrays[f"{name}.affine.weight"] = tensors.read(f"{style}.weight", (2 * channels, config.w_dim))
    bias = tensors.read(f"{style}.bias", (2 * channels,))
    bias[:channels] += 1
    arrays[f"{name}.affine.bias"] = bias
    return arrays


# --- both ports ------------------------------------------------------------------------------------------------------


def _configuration(
    tensors: TensorReader, channels: Mapping[int, int], mapping: list[str], img_channels: int, **fields: Any
) -> GeneratorConfig:
    """The configuration of these channels by resolution, and of mapping layers with these weights."""
    if not mapping:
        raise FormatError(f"its {tensors.network} has no mapping layers")
    w_dim, z_dim = tensors.shape(mapping[0], 2)
    fields |= channel_settings(channels) | {
        "resolution": max(channels),
        "z_dim": z_dim,
        "w_dim": w_dim,
        "img_channels": img_channels,
        "mapping_layers": len(mapping),
        "norm_eps": PYTORCH_NORM_EPS,
    }
    with valid_configuration(tensors.network):
        return GeneratorConfig(**fields)


def _mapping_layer(tensors: TensorReader, weight: str, bias: str, index: int, gain: float) -> Arrays:
    """A mapping layer under our names.

    Its weights and biases are multiplied by `gain`, because another multiplier of the learning rate was part of them. The
    biases are smaller for our gain of sqrt(2), which is behind the leaky ReLU.
    """
    out_dim, in_dim = tensors.shape(weight, 2)
    return {
        f"mapping.fc{index}.weight": tensors.read(weight, (out_dim, in_dim)) * np.float32(gain),
        f"mapping.fc{index}.bias": tensors.read(bias, (out_dim,)) * np.float32(gain / ACTIVATION_GAIN["lrelu"]),
    }


def _noise(config: GeneratorConfig, tensors: TensorReader, shared: bool) -> Arrays:
    """Maps of noise from seed 0. `shared` gives both layers of a resolution the same one."""
    rng, arrays, previous = np.random.default_rng(0), Arrays(), ""
    for spec in config.layers()[:-1]:
        name, shape = f"synthesis.{spec.name}.noise_const", (spec.resolution, spec.resolution)
        if shared and spec.ws_index % 2 == 1:
            arrays[name] = arrays[previous]
        else:
            arrays[name] = tensors.constant(shape, partial(_random_map, rng, shape))
        previous = name
    return arrays


def _random_map(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    return rng.standard_normal(shape, np.float32)


def _count(tensors: TensorReader, pattern: str, maximum: int) -> int:
    """How many names match. Their numbers must run from 0 without a gap."""
    matches = [re.fullmatch(pattern, name) for name in tensors.tensors]
    numbers = sorted(int(match[1]) for match in matches if match and len(match[1]) < 4)
    if numbers != list(range(len(numbers))) or len(numbers) > maximum:
        raise FormatError(f"the layers of its {tensors.network} are not numbered as those of the port")
    return len(numbers)
