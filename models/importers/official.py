"""stylegan2-ada-pytorch and the StyleGAN2 of the stylegan3 repository: modules as records, read by what they are.

The settings come from the state of the modules, which is what their code would have used, and from the shapes; the
arguments that they were made with, nested in one repository and flat in the other, only choose between equal answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from stylert.models.importers.records import Allowance, Module, Tensor
from stylert.models.importers.refusal import Refused, Unrepresentable, shown
from stylert.models.importers.weights import Arrays, Networks, Taker, channel_plan, fir_filter, fir_taps, mean_latent
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER, DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.state_dict import discriminator_shapes, generator_shapes

MAX_MODULES = 1000


def official_networks(data: dict[Any, Any], training: bool, allowance: Allowance) -> Networks:
    """The networks of `{G, D, G_ema, ...}`; G and D only when `training`. Raises Refused."""
    if not isinstance(data.get("G_ema"), Module):
        raise Refused("it holds no network G_ema")
    config, arrays, notes = _generator(data["G_ema"], "G_ema", allowance)
    networks = Networks(config, arrays, notes=notes)
    if training:
        try:
            if isinstance(data.get("G"), Module):
                raw_config, raw, _ = _generator(data["G"], "G", allowance)
                if raw_config != config:
                    raise Unrepresentable("G is configured otherwise than G_ema")
                networks.raw = raw
        except Unrepresentable as e:
            notes.append(f"dropped G: {e}")
        try:
            if isinstance(data.get("D"), Module):
                networks.discriminator_config, networks.discriminator = _discriminator(data["D"], allowance, notes)
        except Unrepresentable as e:
            notes.append(f"dropped D: {e}")
    if isinstance(data.get("augment_pipe"), Module):
        notes.append(f"dropped augment_pipe{_augment_strength(data['augment_pipe'])}: augmentation starts anew")
    extra = sorted(shown(k) for k in set(data) - {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs"})
    notes += [f"dropped the entry {name}" for name in extra]
    return networks


# --- generator -----------------------------------------------------------------------------------------------------


def _generator(module: Module, what: str, allowance: Allowance) -> tuple[GeneratorConfig, Arrays, list[str]]:
    parts = module.children()
    if "synthesis" not in parts or "mapping" not in parts:
        raise Refused(f"its {what} is a {shown(module.class_name)}, no StyleGAN2 generator")
    synthesis, mapping = parts["synthesis"], parts["mapping"]
    if any(re.match(r"L\d+_\d+_\d+$", name) for name in synthesis.children()):
        raise Refused(f"its {what} is a StyleGAN3 generator; stylert reads StyleGAN2")
    blocks = _blocks(synthesis, what)
    resolution = max(blocks)
    modules = _modules(module)
    _check_layers(modules, what, "SynthesisLayer")
    tensors = Taker(what, _tensors(modules), allowance)
    notes: list[str] = []

    channels = {r: tensors.shape(f"synthesis.b{r}.conv1.weight", 4)[0] for r in blocks}
    layers, lr = _mapping_layers(mapping, what)
    made_with = _arguments(module)
    beta = _setting(mapping, "w_avg_beta", what)
    if beta is None:
        notes.append(f"{what} keeps no average of w: taken as the mean over fresh latents")
    taps = fir_taps(_filter(tensors, "synthesis.b4.resample_filter"), f"synthesis.b4.resample_filter of {what}")
    config = _config(
        GeneratorConfig,
        what,
        resolution=resolution,
        z_dim=_setting(mapping, "z_dim", what),
        c_dim=_setting(mapping, "c_dim", what),
        w_dim=_setting(mapping, "w_dim", what),
        img_channels=tensors.shape(f"synthesis.b{resolution}.torgb.weight", 4)[0],
        mapping_layers=layers,
        w_avg_beta=0.995 if beta is None else beta,
        num_fp16_res=_fp16_resolutions(blocks, what),
        conv_clamp=_same(_settings(modules, ("SynthesisLayer", "ToRGBLayer"), "conv_clamp", what), "conv_clamp", what),
        resample_filter=taps,
        architecture=_same([_setting(b, "architecture", what) for b in blocks.values()], "architecture", what),
        **channel_plan(channels, made_with.get("channel_base"), made_with.get("channel_max")),
    )
    if _setting(mapping, "num_ws", what) != config.num_ws:
        raise Unrepresentable(f"its {what} has {shown(mapping.state['num_ws'])} latents, StyleGAN2 has {config.num_ws}")
    if lr != MAPPING_LR_MULTIPLIER:
        notes.append(
            f"{what} has mapping learning rate multiplier {lr:g}: its weights are rescaled to that of {MAPPING_LR_MULTIPLIER:g}"
        )

    noise = _same([bool(v) for v in _settings(modules, ("SynthesisLayer",), "use_noise", what)], "use_noise", what)
    if not noise:
        notes.append(f"{what} has no noise inputs: given as noise of strength 0")
    arrays: Arrays = {}
    for name, shape in generator_shapes(config).items():
        if name.endswith("resample_filter"):
            arrays[name] = fir_filter(taps)
            _check_filter(tensors, name, taps, used="conv1" not in name)
        elif "noise_" in name and not noise:
            arrays[name] = np.zeros(shape, np.float32)
        elif name == "mapping.w_avg" and beta is None:
            continue
        elif name.startswith("mapping.fc"):
            arrays[name] = tensors.take(name, shape) * np.float32(lr / MAPPING_LR_MULTIPLIER)
        else:
            arrays[name] = tensors.take(name, shape)
    if beta is None:
        arrays["mapping.w_avg"] = mean_latent(config, arrays)
    tensors.check_empty()
    return config, arrays, notes


# --- discriminator -------------------------------------------------------------------------------------------------


def _discriminator(module: Module, allowance: Allowance, notes: list[str]) -> tuple[DiscriminatorConfig, Arrays]:
    what = "D"
    parts = module.children()
    blocks = _blocks(module, what)
    resolution = max(blocks)
    modules = _modules(module)
    _check_layers(modules, what, "Conv2dLayer")
    tensors = Taker(what, _tensors(modules), allowance)
    channels = {r: tensors.shape(f"b{r}.conv0.weight", 4)[0] for r in blocks if r > 4}
    channels[4] = tensors.shape("b4.conv.weight", 4)[0]
    c_dim = _setting(module, "c_dim", what)
    layers, lr = (8, MAPPING_LR_MULTIPLIER)
    if "mapping" in parts:
        layers, lr = _mapping_layers(parts["mapping"], what)
        if not layers:
            raise Unrepresentable("its label mapping has no layers")
    made_with = _arguments(module)
    deviation = blocks[4].children().get("mbstd")
    clamped = [m for n, m in modules.items() if m.class_name == "Conv2dLayer" and not n.endswith("skip") and n != "b4.fromrgb"]
    group = None if deviation is None else _setting(deviation, "group_size", what)
    if group is not None and (type(group) is not int or group < 1):
        raise Unrepresentable(f"its minibatch deviation has groups of {shown(group)}")
    taps = fir_taps(_filter(tensors, f"b{resolution}.resample_filter"), "of D")
    config = _config(
        DiscriminatorConfig,
        what,
        resolution=resolution,
        c_dim=c_dim,
        img_channels=tensors.shape(f"b{resolution}.fromrgb.weight", 4)[1],
        architecture=_same([_setting(b, "architecture", what) for b in blocks.values()], "architecture", what),
        mapping_layers=layers,
        mbstd_group_size=group,
        mbstd_num_channels=0 if deviation is None else _setting(deviation, "num_channels", what),
        num_fp16_res=_fp16_resolutions(blocks, what),
        conv_clamp=_same([_setting(m, "conv_clamp", what) for m in clamped], "conv_clamp", what),
        resample_filter=taps,
        **channel_plan(channels, made_with.get("channel_base"), made_with.get("channel_max")),
    )
    if config.c_dim and tensors.shape("b4.out.weight", 2)[0] != config.cmap_dim:
        raise Unrepresentable(
            f"its labels are mapped to {tensors.shape('b4.out.weight', 2)[0]} features, not {config.cmap_dim}"
        )
    if lr != MAPPING_LR_MULTIPLIER:
        notes.append(
            f"D has mapping learning rate multiplier {lr:g}: its weights are rescaled to that of {MAPPING_LR_MULTIPLIER:g}"
        )
    if any("weight" in m.state["_buffers"] for m in modules.values() if isinstance(m.state.get("_buffers"), dict)):
        notes.append("D had frozen layers: they are free again")
    arrays: Arrays = {}
    for name, shape in discriminator_shapes(config).items():
        if name.endswith("resample_filter"):
            arrays[name] = fir_filter(taps)
            used = re.fullmatch(r"b\d+\.((conv1|skip)\.)?resample_filter", name) is not None
            _check_filter(tensors, name, taps, used)
        elif name.startswith("mapping.fc"):
            arrays[name] = tensors.take(name, shape) * np.float32(lr / MAPPING_LR_MULTIPLIER)
        else:
            arrays[name] = tensors.take(name, shape)
    tensors.check_empty()
    return config, arrays


# --- settings ------------------------------------------------------------------------------------------------------


def _blocks(module: Module, what: str) -> dict[int, Module]:
    """The blocks b4, b8, ... by resolution."""
    found = {int(n[1:]): m for n, m in module.children().items() if re.fullmatch(r"b[1-9]\d{0,3}", n)}
    if len(found) < 1 or sorted(found) != [4 << i for i in range(len(found))]:
        raise Refused(f"its {what} has no StyleGAN2 blocks b4, b8, ...")
    return dict(sorted(found.items()))


def _modules(root: Module) -> dict[str, Module]:
    """Every module under `root` by its dotted name."""
    found: dict[str, Module] = {}
    waiting = [("", root, 0)]
    while waiting:
        name, module, depth = waiting.pop()
        found[name] = module
        for child, m in module.children().items():
            waiting.append((f"{name}.{child}" if name else child, m, depth + 1))
        if len(found) + len(waiting) > MAX_MODULES or depth > 8:
            raise Refused("its modules are nested too deep, or too many")
    return found


def _tensors(modules: dict[str, Module]) -> dict[str, Tensor]:
    return {f"{name}.{k}" if name else k: t for name, m in modules.items() for k, t in m.tensors().items()}


def _setting(module: Module, name: str, what: str) -> Any:
    """An attribute of a module, where it is a plain value or a list of them."""
    if name not in module.state:
        raise Refused(f"its {what} has a {shown(module.class_name)} without {name}")
    value = module.state[name]
    if value is not None and not isinstance(value, str | int | float | bool):
        raise Refused(f"its {what} has {name} = {shown(value)}")
    return value


def _settings(modules: dict[str, Module], classes: tuple[str, ...], name: str, what: str) -> list[Any]:
    return [_setting(m, name, what) for m in modules.values() if m.class_name in classes]


def _same(values: Iterable[Any], name: str, what: str) -> Any:
    distinct = list(dict.fromkeys(values))
    if len(distinct) != 1:
        raise Unrepresentable(f"its {what} has {name} = {', '.join(map(shown, distinct[:4])) or 'nothing'} over its layers")
    return distinct[0]


def _fp16_resolutions(blocks: dict[int, Module], what: str) -> int:
    half = [bool(_setting(b, "use_fp16", what)) for r, b in blocks.items() if r > 4]
    count = sum(half)
    if half != [False] * (len(half) - count) + [True] * count:
        raise Unrepresentable(f"its {what} runs other than the highest resolutions in float16")
    return count


def _mapping_layers(mapping: Module, what: str) -> tuple[int, float]:
    """The number of layers fc0, fc1, ... and their learning rate multiplier."""
    layers = [m for n, m in mapping.children().items() if re.fullmatch(r"fc\d+", n)]
    lr = float(_same([_setting(m, "bias_gain", what) for m in layers] or [MAPPING_LR_MULTIPLIER], "bias_gain", what))
    if not 1e-6 < lr < 1e6:
        raise Unrepresentable(f"its {what} has the mapping learning rate multiplier {lr:g}")
    for layer in layers:
        weight = layer.tensors().get("weight")
        if weight is not None and len(weight.shape) == 2 and weight.shape[1]:
            gain = _setting(layer, "weight_gain", what)
            if not isinstance(gain, float) or abs(gain * weight.shape[1] ** 0.5 / lr - 1) > 1e-5:
                raise Unrepresentable(f"its {what} has a mapping layer of weight_gain {shown(gain)}")
    return len(layers), lr


def _check_layers(modules: dict[str, Module], what: str, convolution: str) -> None:
    """Activations are StyleGAN2's: leaky ReLU after the convolutions of this class, but shortcuts, and some linear layers."""
    for name, module in modules.items():
        activated = module.class_name == convolution and not name.endswith("skip")
        activated |= re.search(r"mapping\.fc\d+$|^b4\.fc$", name) is not None
        activation = module.state.get("activation")
        if activated and activation != "lrelu":
            raise Unrepresentable(f"its {what} has the activation {shown(activation)} in {shown(name)}, StyleGAN2 has lrelu")
        if not activated and activation not in (None, "linear"):
            raise Unrepresentable(f"its {what} has the activation {shown(activation)} in {shown(name)}, StyleGAN2 has none")


def _arguments(module: Module) -> dict[str, Any]:
    """The arguments of a network's constructor, nested ones laid flat."""
    given = module.state.get("_init_kwargs")
    if type(given) is not dict:
        return {}
    nested = given.get("synthesis_kwargs")
    return {**given, **(nested if type(nested) is dict else {})}


def _filter(tensors: Taker, name: str) -> np.ndarray:
    f = tensors.tensors.get(name)
    if f is None or len(f.shape) not in (1, 2) or len(set(f.shape)) != 1 or not 1 <= f.shape[0] <= 64:
        raise Refused(f"its {tensors.what} has no readable {name}")
    taps = tensors.take(name, f.shape)
    if not taps.sum():
        raise Refused(f"{tensors.what}: {name} has no sum")
    return taps


def _check_filter(tensors: Taker, name: str, taps: tuple[float, ...], used: bool) -> None:
    """A filter that the network uses must be the one of its configuration; others, of layers at one size, may differ."""
    tensors.leave([name])
    if not used or name not in tensors:
        return
    f = _filter(tensors, name)
    expected = fir_filter(taps) if f.ndim == 2 else np.array(taps) / sum(taps)
    if f.shape != expected.shape or not np.allclose(f, expected, rtol=1e-4, atol=1e-6):
        raise Unrepresentable(f"{tensors.what}: {name} is not the filter of the other layers")


def _augment_strength(module: Module) -> str:
    p = module.tensors().get("p")
    if p is None or p.shape != ():
        return ""
    value = float(p.array(Allowance(4)))
    return f" (ADA p = {value:.3f})" if np.isfinite(value) else ""


def _config(cls: type[Any], what: str, **fields: Any) -> Any:
    try:
        return cls(**fields)
    except (TypeError, ValueError, OverflowError) as e:
        raise Unrepresentable(f"its {what} has no valid configuration: {' '.join(str(e).split())[:200]}") from None
