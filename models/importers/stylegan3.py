"""Reader of the StyleGAN3 generators in the pickles of the stylegan3 repository.

Settings come from the attributes of the modules, and from the arguments of the constructor where no module keeps them.
The list of layers follows from the settings. It is compared with the file: name, factors, padding and filters of every
layer. So a network is refused, by name, wherever the settings do not give it.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, UnsupportedNetworkError, printable
from stylert.models.importers.official_modules import (
    constructor_arguments,
    mapping_layers,
    modules_by_name,
    only_value,
    setting,
    tensors_by_name,
)
from stylert.models.importers.records import StoredModule
from stylert.models.importers.settings import mapping_gain, mapping_gain_notes, valid_configuration
from stylert.models.importers.weights import Arrays, ImportedNetworks, TensorReader, dropped_entries, mean_latent
from stylert.models.stylegan3.config import GeneratorConfig
from stylert.models.stylegan3.filters import down_filter, up_filter
from stylert.models.stylegan3.layer_list import LayerSpec
from stylert.models.stylegan3.state_dict import generator_shapes

#: Allowed difference of a stored filter from the computed one, relative to its largest tap.
FILTER_TOLERANCE = 1e-4


def is_stylegan3(content: object) -> bool:
    """Whether a file's content is a StyleGAN3 generator, or holds one as G_ema."""
    module = content.get("G_ema") if isinstance(content, dict) else content
    synthesis = module.children().get("synthesis") if isinstance(module, StoredModule) else None
    return synthesis is not None and bool(_layers_of(synthesis))


def read_stylegan3(content: object, training: bool, budget: Budget) -> ImportedNetworks:
    """Read G_ema of `{G_ema, ...}`, or a single generator. stylert trains no StyleGAN3, so G and D are dropped.

    Raises:
        FormatError: The file is refused.
    """
    data: dict[Any, Any] = content if type(content) is dict else {"G_ema": content}
    module = data.get("G_ema")
    if not isinstance(module, StoredModule):
        raise FormatError("it holds no network G_ema")
    imported = _read_generator(module, budget)
    if data is not content:
        imported.notes.append("the file is a single generator: used as G_ema")
    imported.notes += dropped_entries(set(data) - {"G_ema", "training_set_kwargs"})
    return imported


def _read_generator(module: StoredModule, budget: Budget) -> ImportedNetworks:
    network = "G_ema"
    parts = module.children()
    synthesis, mapping = parts.get("synthesis"), parts.get("mapping")
    layers = {} if synthesis is None else _layers_of(synthesis)
    if synthesis is None or mapping is None or "input" not in synthesis.children() or not layers:
        raise FormatError(f"its {network} is a {printable(module.class_name)}, not a StyleGAN3 generator")
    modules = modules_by_name(module)
    tensors = TensorReader(network, tensors_by_name(modules), budget)
    _check_activations(modules, network)

    arguments = constructor_arguments(module) | constructor_arguments(synthesis)
    depth, lr = mapping_layers(mapping, network)
    beta = setting(mapping, "w_avg_beta", network)
    fields = _synthesis_fields(synthesis, list(layers.values()), arguments, network)
    fields |= {name: setting(mapping, name, network) for name in ("z_dim", "c_dim", "w_dim")}
    fields |= {"mapping_layers": depth} | ({} if beta is None else {"w_avg_beta": beta})
    with valid_configuration(network):
        config = GeneratorConfig(**fields)
    if setting(mapping, "num_ws", network) != config.num_ws:
        num_ws = printable(mapping.state["num_ws"])
        raise UnsupportedNetworkError(f"its {network} has {num_ws} latents, its layers need {config.num_ws}")
    _check_layers(layers, config, network)

    notes = mapping_gain_notes(lr, network)
    arrays = _arrays(config, tensors, mapping_gain(lr, network), has_average=beta is not None)
    if beta is None:
        notes.append(f"{network} keeps no average of w: computed as the mean over random latents")
        arrays["mapping.w_avg"] = mean_latent(config, arrays)
    _check_filters(arrays, config, network)
    for layer in config.layers():
        if not arrays[f"synthesis.{layer.name}.magnitude_ema"] > 0:
            raise FormatError(f"{network}: synthesis.{layer.name}.magnitude_ema is not positive")
    if not np.array_equal(arrays["synthesis.input.transform"], np.eye(3)):
        notes.append(f"{network} has a transform of its own: kept as the one for images without another")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise FormatError(f"{network}: {name} goes beyond float32 in the conversion")
    for name in sorted(set(tensors.tensors) - tensors.known):
        raise UnsupportedNetworkError(f"its {network} holds the tensor {printable(name)}, which no StyleGAN3 has")
    return ImportedNetworks(config, arrays, notes=notes)


def _layers_of(synthesis: StoredModule) -> dict[str, StoredModule]:
    """The layers by name, in order of their index."""
    names = [name for name in synthesis.children() if re.fullmatch(r"L\d{1,3}_\d{1,5}_\d{1,6}", name)]
    names.sort(key=lambda name: int(name[1:].split("_")[0]))
    return {name: synthesis.children()[name] for name in names}


def _check_activations(modules: dict[str, StoredModule], network: str) -> None:
    """Only the mapping layers say their activation. It is a leaky ReLU, as in every other layer."""
    for name, module in modules.items():
        expected = ("lrelu",) if re.fullmatch(r"mapping\.fc\d+", name) else (None, "linear")
        activation = module.state.get("activation")
        if activation not in expected:
            raise UnsupportedNetworkError(f"its {network} has the activation {printable(activation)} in {printable(name)}")


# --- settings ------------------------------------------------------------------------------------------------------


def _synthesis_fields(
    synthesis: StoredModule, layers: list[StoredModule], arguments: dict[str, Any], network: str
) -> dict[str, Any]:
    """The fields of the configuration that shape the synthesis network."""

    def all_layers(name: str, of: list[StoredModule] = layers) -> Any:
        return only_value([setting(layer, name, network) for layer in of], name, network)

    def factor(numerator: Any, denominator: Any, name: str) -> int:
        """A quotient of whole numbers, which the file may keep as floats."""
        if (
            any(not isinstance(n, int | float) or not 1 <= n < 2**31 for n in (numerator, denominator))
            or numerator % denominator
        ):
            raise FormatError(f"its {network} has a layer without a whole {name}")
        return int(numerator // denominator)

    rates = [[setting(layer, f"{side}_sampling_rate", network) for side in ("tmp", "in", "out")] for layer in layers[:-1]]
    lengths = [
        factor(setting(layer, f"{side}_taps", network), setting(layer, f"{side}_factor", network), "filter_size")
        for layer in layers[:-1]
        for side in ("up", "down")
        if setting(layer, f"{side}_factor", network) != 1
    ]
    fields = {
        "resolution": setting(synthesis, "img_resolution", network),
        "img_channels": setting(synthesis, "img_channels", network),
        "num_layers": len(layers) - 1,
        "num_critical": setting(synthesis, "num_critical", network),
        "margin_size": setting(synthesis, "margin_size", network),
        "output_scale": setting(synthesis, "output_scale", network),
        "num_fp16_res": setting(synthesis, "num_fp16_res", network),
        "first_cutoff": setting(synthesis.children()["input"], "bandwidth", network),
        "conv_kernel": all_layers("conv_kernel", layers[:-1]),
        "conv_clamp": all_layers("conv_clamp"),
        "magnitude_ema_beta": all_layers("magnitude_ema_beta"),
        "lrelu_upsampling": only_value(
            [factor(tmp, max(before, behind), "lrelu_upsampling") for tmp, before, behind in rates], "lrelu_upsampling", network
        ),
        "use_radial_filters": any(setting(layer, "down_radial", network) for layer in layers),
    }
    if lengths:
        fields["filter_size"] = only_value(lengths, "filter_size", network)
    # No module keeps these. Those that are not in the file have the defaults of the official code, which are ours.
    names = ("first_stopband", "last_stopband_rel", "channel_base", "channel_max")
    return fields | {name: arguments[name] for name in names if type(arguments.get(name)) in (int, float)}


def _check_layers(layers: dict[str, StoredModule], config: GeneratorConfig, network: str) -> None:
    """Check that the file has the layers of the configuration."""
    specs = config.layers()
    for name, spec in zip(layers, specs, strict=True):
        if name != spec.name:
            raise UnsupportedNetworkError(f"its {network} has a layer {printable(name)} where its settings give {spec.name}")
        stored = layers[name]
        for attribute, expected in _attributes(spec).items():
            value = stored.state.get(attribute) if attribute == "padding" else setting(stored, attribute, network)
            if value != expected:
                raise UnsupportedNetworkError(
                    f"its {network} has {attribute} = {printable(value)} in {name}, its settings give {expected}"
                )


def _attributes(spec: LayerSpec) -> dict[str, Any]:
    """The attributes of an official layer that change its images."""
    return {
        "is_torgb": spec.is_torgb,
        "use_fp16": spec.is_fp16,
        "conv_kernel": spec.kernel,
        "up_factor": spec.up,
        "down_factor": spec.down,
        "padding": [*spec.padding, *spec.padding],
    }


# --- tensors -------------------------------------------------------------------------------------------------------


def _arrays(config: GeneratorConfig, tensors: TensorReader, gain: float, has_average: bool) -> Arrays:
    """The tensors under the official names, with the mapping layers scaled by `gain`."""
    arrays: Arrays = {}
    for name, shape in generator_shapes(config).items():
        if name == "mapping.w_avg" and not has_average:
            continue
        arrays[name] = tensors.read(name, shape)
        if name.startswith("mapping.fc"):
            arrays[name] *= gain
    return arrays


def _check_filters(arrays: Arrays, config: GeneratorConfig, network: str) -> None:
    """Check that the stored filters are those of the configuration."""
    for layer in config.layers():
        for kind, f in (("up_filter", up_filter(layer)), ("down_filter", down_filter(layer))):
            name = f"synthesis.{layer.name}.{kind}"
            if f is not None and np.abs(arrays[name] - f).max() > FILTER_TOLERANCE * np.abs(f).max():
                raise UnsupportedNetworkError(f"{network}: {name} is not the filter that its settings give")
