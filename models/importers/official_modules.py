"""Reads tensors and settings from the stored modules of an official pickle, for `official.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, UnsupportedNetworkError, printable
from stylert.models.importers.records import StoredModule, StoredTensor
from stylert.models.importers.settings import fir_filter, mapping_gain
from stylert.models.importers.weights import TensorReader
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER

MAX_MODULES = 1000
MAX_DEPTH = 8
#: A 4096 px discriminator has about 80. One module may stand in many places, so the file's size does not bound them.
MAX_TENSORS = 2000

# --- modules -------------------------------------------------------------------------------------------------------


def blocks_of(module: StoredModule, network: str) -> dict[int, StoredModule]:
    """The blocks b4, b8, ... by resolution."""
    blocks = {int(name[1:]): child for name, child in module.children().items() if re.fullmatch(r"b[1-9]\d{0,3}", name)}
    if not blocks or sorted(blocks) != [4 << i for i in range(len(blocks))]:
        raise FormatError(f"its {network} has no StyleGAN2 blocks b4, b8, ...")
    return dict(sorted(blocks.items()))


def modules_by_name(root: StoredModule) -> dict[str, StoredModule]:
    """Every module under `root` by its dotted name."""
    modules: dict[str, StoredModule] = {}
    waiting = [("", root, 0)]
    while waiting:
        name, module, depth = waiting.pop()
        modules[name] = module
        for child_name, child in module.children().items():
            waiting.append((_joined(name, child_name), child, depth + 1))
        if len(modules) + len(waiting) > MAX_MODULES or depth > MAX_DEPTH:
            raise FormatError("its modules are nested too deep, or too many")
    return modules


def tensors_by_name(modules: dict[str, StoredModule]) -> dict[str, StoredTensor]:
    """Every parameter and buffer by its dotted name."""
    tensors: dict[str, StoredTensor] = {}
    for name, module in modules.items():
        tensors |= {_joined(name, key): tensor for key, tensor in module.tensors().items()}
        if len(tensors) > MAX_TENSORS:
            raise FormatError(f"its modules hold more than {MAX_TENSORS} tensors")
    return tensors


def _joined(parent: str, child: str) -> str:
    return f"{parent}.{child}" if parent else child


def check_activations(modules: dict[str, StoredModule], network: str, convolution: str) -> None:
    """Check that the activations are StyleGAN2's.

    A leaky ReLU follows every layer of the class `convolution` but shortcuts, every mapping layer, and `b4.fc`.
    """
    for name, module in modules.items():
        activated = module.class_name == convolution and not name.endswith("skip")
        activated |= re.search(r"mapping\.fc\d+$|^b4\.fc$", name) is not None
        activation = module.state.get("activation")
        has_activation = f"its {network} has the activation {printable(activation)} in {printable(name)}"
        if activated and activation != "lrelu":
            raise UnsupportedNetworkError(f"{has_activation}, StyleGAN2 has lrelu")
        if not activated and activation not in (None, "linear"):
            raise UnsupportedNetworkError(f"{has_activation}, StyleGAN2 has none")


# --- settings ------------------------------------------------------------------------------------------------------


def setting(module: StoredModule, name: str, network: str) -> Any:
    """An attribute of a module that is a plain value."""
    if name not in module.state:
        raise FormatError(f"its {network} has a {printable(module.class_name)} without {name}")
    value = module.state[name]
    if value is not None and not isinstance(value, str | int | float | bool):
        raise FormatError(f"its {network} has {name} = {printable(value)}")
    return value


def settings_of(modules: dict[str, StoredModule], classes: tuple[str, ...], name: str, network: str) -> list[Any]:
    """The same attribute of every module of these classes."""
    return [setting(module, name, network) for module in modules.values() if module.class_name in classes]


def only_value(values: Iterable[Any], name: str, network: str) -> Any:
    """The value that all layers share."""
    distinct = list(dict.fromkeys(values))
    if len(distinct) != 1:
        listed = ", ".join(map(printable, distinct[:4])) or "nothing"
        raise UnsupportedNetworkError(f"its {network} has {name} = {listed} over its layers")
    return distinct[0]


def architecture_of(blocks: dict[int, StoredModule], network: str) -> Any:
    """The architecture that all blocks share."""
    return only_value([setting(block, "architecture", network) for block in blocks.values()], "architecture", network)


def fp16_resolutions(blocks: dict[int, StoredModule], network: str) -> int:
    """Number of blocks in float16, which must be those of the highest resolutions."""
    half = [bool(setting(block, "use_fp16", network)) for res, block in blocks.items() if res > 4]
    count = sum(half)
    if half != [False] * (len(half) - count) + [True] * count:
        raise UnsupportedNetworkError(f"its {network} runs resolutions in float16 that are not the highest")
    return count


def mapping_layers(mapping: StoredModule, network: str) -> tuple[int, float]:
    """The number of layers fc0, fc1, ... and their learning rate multiplier."""
    layers = [child for name, child in mapping.children().items() if re.fullmatch(r"fc\d+", name)]
    multipliers = [setting(layer, "bias_gain", network) for layer in layers] or [MAPPING_LR_MULTIPLIER]
    lr = float(only_value(multipliers, "bias_gain", network))
    mapping_gain(lr, network)  # refuses a multiplier out of range
    for layer in layers:
        weight = layer.tensors().get("weight")
        if weight is not None and len(weight.shape) == 2 and weight.shape[1]:
            gain = setting(layer, "weight_gain", network)
            if not isinstance(gain, float) or abs(gain * weight.shape[1] ** 0.5 / lr - 1) > 1e-5:
                raise UnsupportedNetworkError(f"its {network} has a mapping layer of weight_gain {printable(gain)}")
    return len(layers), lr


def minibatch_std_settings(epilogue: StoredModule, network: str) -> tuple[int | None, Any]:
    """Group size and number of channels of the minibatch standard deviation."""
    layer = epilogue.children().get("mbstd")
    if layer is None:
        return None, 0
    group_size = setting(layer, "group_size", network)
    if group_size is not None and (type(group_size) is not int or group_size < 1):
        raise UnsupportedNetworkError(f"its minibatch standard deviation has groups of {printable(group_size)}")
    return group_size, setting(layer, "num_channels", network)


def constructor_arguments(module: StoredModule) -> dict[str, Any]:
    """The arguments that the network was made with. Those of the synthesis network may be nested."""
    arguments = module.state.get("_init_kwargs")
    if type(arguments) is not dict:
        return {}
    nested = arguments.get("synthesis_kwargs")
    return {**arguments, **(nested if type(nested) is dict else {})}


def read_filter(tensors: TensorReader, name: str) -> np.ndarray:
    """A FIR filter, `[n, n]` or `[n]`."""
    tensor = tensors.tensors.get(name)
    shape = () if tensor is None else tensor.shape
    if len(shape) not in (1, 2) or len(set(shape)) != 1 or not 1 <= shape[0] <= 64:
        raise FormatError(f"its {tensors.network} has no readable {name}")
    taps = tensors.read(name, shape)
    if not taps.sum():
        raise FormatError(f"{tensors.network}: {name} has no sum")
    return taps


def check_filters(tensors: TensorReader, shapes: Iterable[str], taps: tuple[float, ...], unused: str) -> None:
    """Check that every filter which the network uses has these taps.

    `unused` matches the names of those that it does not use, because their layers keep the resolution.
    """
    for name in (name for name in shapes if name.endswith("resample_filter")):
        tensors.ignore([name])
        if re.fullmatch(unused, name) or name not in tensors:
            continue
        f = read_filter(tensors, name)
        expected = fir_filter(taps) if f.ndim == 2 else np.array(taps) / sum(taps)
        if f.shape != expected.shape or not np.allclose(f, expected, rtol=1e-4, atol=1e-6):
            raise UnsupportedNetworkError(f"{tensors.network}: {name} is not the filter of the other layers")


def augment_strength(module: StoredModule, budget: Budget) -> str:
    """The strength of adaptive augmentation, for a note."""
    p = module.tensors().get("p")
    if p is None or p.shape != ():
        return ""
    value = float(p.array(budget))
    return f" (ADA p = {value:.3f})" if np.isfinite(value) else ""
