"""rosinality/stylegan2-pytorch: state dicts under other names, their configuration read from shapes alone.

Its generator is the skip architecture, its discriminator the residual one, both without labels, half precision or
clamping. It scales a weight by 1/sqrt(fan_in) in front of the demodulation, which the official code does not: the two
differ by the epsilon under the square root only, of which fan_in times as much counts there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from stylert.models.importers.records import Allowance, Record, Tensor
from stylert.models.importers.refusal import Refused, Unrepresentable, shown
from stylert.models.importers.weights import Arrays, Networks, Taker, channel_plan, fir_filter, mean_latent
from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.state_dict import discriminator_shapes, generator_shapes

TAPS = (1.0, 3.0, 3.0, 1.0)
MBSTD_GROUP = 4
MAX_BLOCKS = 10
EPSILON_NOTE = (
    "rosinality's code weighs the epsilon of the demodulation otherwise: images agree to float32 rounding, not to the bit"
)


def is_rosinality(data: Mapping[Any, Any]) -> bool:
    """Whether this is such a checkpoint, or the bare state dict of its generator."""
    return any(type(data.get(k)) is dict for k in ("g_ema", "g")) or "input.input" in data


def rosinality_networks(data: dict[Any, Any], training: bool, allowance: Allowance) -> Networks:
    """The networks of `{g, d, g_ema, latent_avg, ...}`; g and d only when `training`. Raises Refused."""
    notes = [EPSILON_NOTE]
    what = next((k for k in ("g_ema", "g") if type(data.get(k)) is dict), None)
    if what is None:
        state, what = data, "state dict"
        notes.append("the file is a bare state dict of a generator: taken for g_ema")
    else:
        state = data[what]
        if what == "g":
            notes.append("the file has no g_ema: g is taken for it")
    if isinstance(data.get("args"), Record) and data["args"].state.get("arch", "stylegan2") != "stylegan2":
        raise Unrepresentable(f"its architecture is {shown(data['args'].state['arch'])}; stylert reads stylegan2")
    average = data.get("latent_avg") if what != "state dict" else None
    config, arrays = _generator(state, what, allowance, notes)
    if isinstance(average, Tensor):
        if average.shape not in ((config.w_dim,), (1, config.w_dim)):
            raise Refused(f"latent_avg is {list(average.shape)}, the network needs {[config.w_dim]}")
        taker = Taker(what, {"latent_avg": average}, allowance)
        arrays["mapping.w_avg"] = taker.take("latent_avg", average.shape).reshape(config.w_dim)
    else:
        arrays["mapping.w_avg"] = mean_latent(config, arrays)
        notes.append("the file has no latent_avg: taken as the mean over fresh latents")
    networks = Networks(config, arrays, notes=notes)
    if training:
        _training_networks(data, what, networks, allowance)
    if what != "state dict":
        extra = sorted(shown(k) for k in set(data) - {"g", "d", "g_ema", "latent_avg"})
        notes += [f"dropped the entry {name}" for name in extra]
    return networks


def _training_networks(data: dict[Any, Any], served: str, networks: Networks, allowance: Allowance) -> None:
    if type(data.get("g")) is dict and served != "g":
        config, raw = _generator(data["g"], "g", allowance, [])
        if config != networks.config:
            networks.notes.append("dropped g: it is configured otherwise than g_ema")
        else:
            networks.raw = {**raw, "mapping.w_avg": networks.generator["mapping.w_avg"]}
    if type(data.get("d")) is dict:
        try:
            networks.discriminator_config, networks.discriminator = _discriminator(data["d"], allowance)
        except Unrepresentable as e:
            networks.notes.append(f"dropped d: {e}")


def _generator(state: dict[Any, Any], what: str, allowance: Allowance, notes: list[str]) -> tuple[GeneratorConfig, Arrays]:
    """Configuration and arrays but for `mapping.w_avg`, which is beside the state dict."""
    tensors = Taker(what, _tensors(state, what), allowance)
    if any("iwt" in name or "dwt" in name for name in tensors.tensors):
        raise Unrepresentable(f"its {what} is a SWAGAN generator; stylert reads StyleGAN2")
    blocks = _count(tensors, r"to_rgbs\.(\d+)\.bias")
    resolution = 4 << blocks
    channels = {4: tensors.shape("input.input", 4)[1]}
    channels |= {8 << i: tensors.shape(f"convs.{2 * i + 1}.conv.weight", 5)[1] for i in range(blocks)}
    w_dim, z_dim = tensors.shape("style.1.weight", 2)
    config = _config(
        GeneratorConfig,
        what,
        resolution=resolution,
        z_dim=z_dim,
        w_dim=w_dim,
        img_channels=tensors.shape("to_rgb1.bias", 4)[1],
        mapping_layers=_count(tensors, r"style\.(\d+)\.weight", first=1),
        **channel_plan(channels),
    )
    names = _generator_names(blocks, config.mapping_layers)
    noiseless = not any(name.startswith("noises.") for name in tensors.tensors)
    if noiseless:
        notes.append(f"{what} keeps no noise: drawn from seed 0")
    rng = np.random.default_rng(0)
    arrays: Arrays = {}
    for name, shape in generator_shapes(config).items():
        if name.endswith("resample_filter"):
            arrays[name] = fir_filter(TAPS)
        elif name == "mapping.w_avg":
            continue
        elif name.endswith("noise_const") and noiseless:
            arrays[name] = rng.standard_normal(shape, np.float32)
        else:
            arrays[name] = tensors.take(names[name], _wrapped(name, shape)).reshape(shape)
    _leave_kernels(tensors)
    tensors.check_empty()
    return config, arrays


def _generator_names(blocks: int, mapping_layers: int) -> dict[str, str]:
    """Official names to rosinality's."""
    names = {"synthesis.b4.const": "input.input"}
    for i in range(mapping_layers):
        names |= {f"mapping.fc{i}.{t}": f"style.{i + 1}.{t}" for t in ("weight", "bias")}
    layers = {"b4.conv1": ("conv1", 0), "b4.torgb": ("to_rgb1", None)}
    for i in range(blocks):
        layers[f"b{8 << i}.conv0"] = (f"convs.{2 * i}", 2 * i + 1)
        layers[f"b{8 << i}.conv1"] = (f"convs.{2 * i + 1}", 2 * i + 2)
        layers[f"b{8 << i}.torgb"] = (f"to_rgbs.{i}", None)
    for ours, (theirs, noise) in layers.items():
        names[f"synthesis.{ours}.weight"] = f"{theirs}.conv.weight"
        names |= {f"synthesis.{ours}.affine.{t}": f"{theirs}.conv.modulation.{t}" for t in ("weight", "bias")}
        names[f"synthesis.{ours}.bias"] = f"{theirs}.bias" if noise is None else f"{theirs}.activate.bias"
        if noise is not None:
            names[f"synthesis.{ours}.noise_strength"] = f"{theirs}.noise.weight"
            names[f"synthesis.{ours}.noise_const"] = f"noises.noise_{noise}"
    return names


def _wrapped(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that rosinality gives a tensor of this official name and shape."""
    if name.endswith(("const", "noise_strength")) or re.fullmatch(r"synthesis\.b\d+\.(conv[01]|torgb)\.weight", name):
        return (1, 1, *shape) if name.endswith("noise_const") else (1, *shape)
    return (1, *shape, 1, 1) if name.endswith("torgb.bias") else shape


def _discriminator(state: dict[Any, Any], allowance: Allowance) -> tuple[DiscriminatorConfig, Arrays]:
    tensors = Taker("d", _tensors(state, "d"), allowance)
    blocks = _count(tensors, r"convs\.(\d+)\.skip\.1\.weight", first=1)
    resolution = 4 << blocks
    blocks_at = {resolution >> i: f"convs.{i + 1}" for i in range(blocks)}
    channels = {res: tensors.shape(f"{at}.conv1.0.weight", 4)[0] for res, at in blocks_at.items()}
    channels[4] = tensors.shape("final_conv.0.weight", 4)[0]
    names = {"b4.conv.weight": "final_conv.0.weight", "b4.conv.bias": "final_conv.1.bias"}
    for t in ("weight", "bias"):
        names |= {f"b4.fc.{t}": f"final_linear.0.{t}", f"b4.out.{t}": f"final_linear.1.{t}"}
    names |= {f"b{resolution}.fromrgb.weight": "convs.0.0.weight", f"b{resolution}.fromrgb.bias": "convs.0.1.bias"}
    for res, at in blocks_at.items():
        names |= {f"b{res}.conv0.weight": f"{at}.conv1.0.weight", f"b{res}.conv0.bias": f"{at}.conv1.1.bias"}
        names |= {f"b{res}.conv1.weight": f"{at}.conv2.1.weight", f"b{res}.conv1.bias": f"{at}.conv2.2.bias"}
        names[f"b{res}.skip.weight"] = f"{at}.skip.1.weight"
    config = _config(
        DiscriminatorConfig,
        "d",
        resolution=resolution,
        img_channels=tensors.shape("convs.0.0.weight", 4)[1],
        mbstd_group_size=MBSTD_GROUP,
        **channel_plan(channels),
    )
    arrays = {
        name: fir_filter(TAPS) if name.endswith("resample_filter") else tensors.take(names[name], shape)
        for name, shape in discriminator_shapes(config).items()
    }
    _leave_kernels(tensors)
    tensors.check_empty()
    return config, arrays


def _tensors(state: dict[Any, Any], what: str) -> dict[str, Tensor]:
    if not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise Refused(f"its {what} is no state dict")
    # A wrapper for several GPUs puts this in front of every name.
    return {k.removeprefix("module."): v for k, v in state.items()}


def _count(tensors: Taker, pattern: str, first: int = 0) -> int:
    """How many names match; their numbers must follow each other."""
    found = sorted(int(m[1]) for name in tensors.tensors if (m := re.fullmatch(pattern, name)) and len(m[1]) < 4)
    if (
        found != list(range(first, first + len(found)))
        or len(found) > 64
        or ("style" not in pattern and len(found) > MAX_BLOCKS)
    ):
        raise Refused(f"the layers of its {tensors.what} are not numbered as rosinality's")
    return len(found)


def _leave_kernels(tensors: Taker) -> None:
    """Blur kernels are constants in both codes; another one than [1, 3, 3, 1] is another network."""
    expected = fir_filter(TAPS)
    for name in [n for n in tensors.tensors if n.endswith(".kernel")]:
        kernel = tensors.take(name, (4, 4))
        if not any(np.allclose(kernel, expected * gain, rtol=1e-3, atol=1e-6) for gain in (1, 4)):
            raise Unrepresentable(f"its {tensors.what} has another blur than [1, 3, 3, 1] in {shown(name)}")


def _config(cls: type[Any], what: str, **fields: Any) -> Any:
    try:
        return cls(**fields)
    except (TypeError, ValueError) as e:
        raise Unrepresentable(f"its {what} has no valid configuration: {' '.join(str(e).split())[:200]}") from None
