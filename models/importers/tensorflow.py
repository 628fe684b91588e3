"""Reader of StyleGAN2 and StyleGAN2-ADA on TensorFlow: networks as lists of named variables and keyword arguments.

Four layouts differ from the official PyTorch code:

- Convolution kernels are `[k, k, in, out]`.
- Matrices are `[in, out]`.
- The bias of a style is stored less one, which the code adds.
- Kernels of upsampling convolutions are rotated by 180 degrees against PyTorch's transposed convolution.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, UnsupportedNetworkError, printable
from stylert.models.importers.records import StoredObject, StoredTensor
from stylert.models.importers.settings import epsilon_note, mapping_gain, mapping_gain_notes, valid_configuration
from stylert.models.importers.tensorflow_records import Arguments, network_variables
from stylert.models.importers.weights import (
    Arrays,
    ImportedNetworks,
    TensorReader,
    drop_if_unsupported,
    network_arrays,
)
from stylert.models.stylegan2.config import (
    FIR_TAPS,
    MAPPING_LR_MULTIPLIER,
    W_AVG_BETA,
    DiscriminatorConfig,
    GeneratorConfig,
)
from stylert.models.stylegan2.state_dict import discriminator_shapes, generator_shapes

#: Arguments that change training or evaluation, but not the network itself.
IGNORED_ARGUMENTS = {
    *("truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val", "style_mixing_prob"),
    *("randomize_noise", "fused_modconv", "structure", "dlatent_broadcast", "mapping_func", "synthesis_func", "freeze_layers"),
}
#: Arguments that change the network, and the values that StyleGAN2 has.
FIXED_ARGUMENTS: dict[str, tuple[object, ...]] = {
    "fmap_min": (1,),
    "fmap_decay": (1, 1.0),
    "dtype": ("float32",),
    "normalize_latents": (True,),
    "nonlinearity": ("lrelu",),
    "mapping_nonlinearity": ("lrelu",),
    "use_noise": (True,),
    "label_fmaps": (None,),
}


def read_tensorflow(data: tuple[Any, ...], training: bool, budget: Budget) -> ImportedNetworks:
    """Read the networks of the tuple `(G, D, Gs)`; G and D only when `training`. Gs is G_ema. Raises FormatError."""
    if len(data) != 3:
        raise FormatError(f"it holds {len(data)} TensorFlow networks where StyleGAN2 has three")
    raw, discriminator, averaged = data
    config, arrays, notes = _read_generator(averaged, "Gs", budget)
    networks = ImportedNetworks(config, arrays, notes=notes)
    if training:
        with drop_if_unsupported("G", notes):
            raw_config, raw_arrays, _ = _read_generator(raw, "G", budget)
            if raw_config != config:
                raise UnsupportedNetworkError("its configuration differs from that of Gs")
            networks.raw = raw_arrays
        with drop_if_unsupported("D", notes):
            networks.discriminator_config, networks.discriminator = _read_discriminator(discriminator, budget, notes)
    return networks


# --- generator -----------------------------------------------------------------------------------------------------


def _read_generator(network_object: StoredObject, network: str, budget: Budget) -> tuple[GeneratorConfig, Arrays, list[str]]:
    variables = network_variables(network_object, network)
    _check_kind(network_object, variables, network)
    arguments = Arguments(network_object, network, IGNORED_ARGUMENTS, FIXED_ARGUMENTS)
    w_dim = arguments.pop("dlatent_size", 512)
    lr = arguments.pop("mapping_lrmul", MAPPING_LR_MULTIPLIER)
    beta = arguments.pop("w_avg_beta", arguments.pop("dlatent_avg_beta", W_AVG_BETA))
    features = arguments.pop("mapping_fmaps", None)
    layers = arguments.pop("mapping_layers", 8)
    if features not in (None, w_dim) and layers != 1:
        raise UnsupportedNetworkError(
            f"its {network} has mapping layers of {printable(features)} features, not {printable(w_dim)}"
        )
    fields: dict[str, Any] = {
        "z_dim": arguments.pop("latent_size", 512),
        "w_dim": w_dim,
        "mapping_layers": layers,
        "w_avg_beta": W_AVG_BETA if beta is None else beta,
        "architecture": arguments.pop("architecture", "skip"),
    }
    with valid_configuration(network):
        config = GeneratorConfig(**fields, **_shared_fields(arguments))
    arguments.check_empty()
    gain = mapping_gain(lr, network)
    tensors = TensorReader(network, variables, budget)

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return _read_variable(tensors, _generator_variable(name), name, shape)

    arrays = network_arrays(generator_shapes(config), config.resample_filter, read, gain)
    _check_all_known(tensors)
    return config, arrays, [epsilon_note("StyleGAN2 on TensorFlow"), *mapping_gain_notes(lr, network)]


def _generator_variable(name: str) -> str:
    """The TensorFlow variable of an official name."""
    if name == "mapping.w_avg":
        return "dlatent_avg"
    if match := re.fullmatch(r"mapping\.fc(\d+)\.(\w+)", name):
        return f"mapping/Dense{match[1]}/{match[2]}"
    if match := re.fullmatch(r"mapping\.embed\.(\w+)", name):
        return f"mapping/LabelEmbed/{match[1]}"
    if name == "synthesis.b4.const":
        return "synthesis/4x4/Const/const"
    match = re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb|skip)\.(.+)", name)
    assert match is not None
    res, layer, tensor = int(match[1]), match[2], match[3]
    if tensor == "noise_const":
        log2_res = res.bit_length() - 1
        return f"synthesis/noise{2 * log2_res - (5 if layer == 'conv0' else 4)}"
    scope = {"conv0": "Conv0_up", "conv1": "Conv" if res == 4 else "Conv1", "torgb": "ToRGB", "skip": "Skip"}[layer]
    return f"synthesis/{res}x{res}/{scope}/{tensor.replace('affine.', 'mod_')}"


# --- discriminator -------------------------------------------------------------------------------------------------


def _read_discriminator(network_object: StoredObject, budget: Budget, notes: list[str]) -> tuple[DiscriminatorConfig, Arrays]:
    network = "D"
    variables = network_variables(network_object, network)
    arguments = Arguments(network_object, network, IGNORED_ARGUMENTS, FIXED_ARGUMENTS)
    # StyleGAN2's code groups four samples by default and has no label mapping; ADA's code has both as arguments.
    is_stylegan2 = network_object.state.get("build_func_name") == "D_stylegan2"
    says_group_size = "mbstd_group_size" in arguments
    group_size = arguments.pop("mbstd_group_size", 4 if is_stylegan2 else None)
    num_channels = arguments.pop("mbstd_num_features", 1)
    layers, lr = arguments.pop("mapping_layers", 0), arguments.pop("mapping_lrmul", 0.1)
    features = arguments.pop("mapping_fmaps", None)
    has_labels = arguments.is_set("label_size")
    if has_labels and (is_stylegan2 or not layers):
        raise UnsupportedNetworkError("its labels go in without mapping layers")
    if group_size is not None and (type(group_size) is not int or group_size < 0):
        raise UnsupportedNetworkError(f"its minibatch standard deviation has groups of {printable(group_size)}")
    if group_size in (0, 1):  # StyleGAN2's code then leaves the minibatch standard deviation out
        group_size, num_channels = None, 0
    fields: dict[str, Any] = {
        "mapping_layers": layers if has_labels else DiscriminatorConfig.mapping_layers,
        "architecture": arguments.pop("architecture", "resnet"),
        "mbstd_group_size": group_size,
        "mbstd_num_channels": num_channels,
    }
    with valid_configuration(network):
        config = DiscriminatorConfig(**fields, **_shared_fields(arguments))
    arguments.check_empty()
    if config.c_dim and features not in (None, config.cmap_dim):
        raise UnsupportedNetworkError(f"its labels are mapped to {printable(features)} features, not {config.cmap_dim}")
    gain = mapping_gain(lr, network) if has_labels else 1.0
    tensors = TensorReader(network, variables, budget)

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        return _read_variable(tensors, _discriminator_variable(name), name, shape)

    arrays = network_arrays(discriminator_shapes(config), config.resample_filter, read, gain)
    _check_all_known(tensors)
    notes += mapping_gain_notes(lr, network) if has_labels else []
    if is_stylegan2 and not says_group_size:
        notes.append("D does not name the group size of its minibatch standard deviation: assumed 4, the default of its code")
    return config, arrays


def _discriminator_variable(name: str) -> str:
    """The TensorFlow variable of an official name."""
    scopes = {"b4.conv": "4x4/Conv", "b4.fc": "4x4/Dense0", "b4.out": "Output", "mapping.embed": "LabelEmbed"}
    layer, tensor = name.rsplit(".", 1)
    if layer in scopes:
        return f"{scopes[layer]}/{tensor}"
    if match := re.fullmatch(r"mapping\.fc(\d+)", layer):
        return f"Mapping{match[1]}/{tensor}"
    block, part = layer.split(".")
    res = block.removeprefix("b")
    scope = {"fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip"}[part]
    return f"{res}x{res}/{scope}/{tensor}"


# --- variables -----------------------------------------------------------------------------------------------------


def _check_kind(network_object: StoredObject, variables: Mapping[str, StoredTensor], network: str) -> None:
    """Refuse the other networks of this format by their own names."""
    if any("/ToRGB_lod" in name for name in variables):
        raise FormatError(
            f"its {network} grows progressively (StyleGAN2 configurations B to D, or older); stylert reads E and F"
        )
    if any("LabelConcat" in name for name in variables):
        raise UnsupportedNetworkError(
            f"its {network} joins labels to z before it normalises both (LabelConcat); stylert's normalises each alone"
        )


def _read_variable(tensors: TensorReader, variable: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of this official name and shape, from the layout of its TensorFlow variable."""
    if name.endswith("noise_const"):
        return tensors.read(variable, (1, 1, *shape)).reshape(shape)
    if name == "synthesis.b4.const":
        return tensors.read(variable, (1, *shape)).reshape(shape)
    if len(shape) == 2:
        return np.ascontiguousarray(tensors.read(variable, shape[::-1]).T)
    if len(shape) == 4:
        out_channels, in_channels, kernel, _ = shape
        array = tensors.read(variable, (kernel, kernel, in_channels, out_channels))
        if re.fullmatch(r"synthesis\.b\d+\.(conv0|skip)\.weight", name):
            array = array[::-1, ::-1]
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    array = tensors.read(variable, shape)
    return array + np.float32(1) if name.endswith("affine.bias") else array


def _check_all_known(tensors: TensorReader) -> None:
    """As `TensorReader.check_all_known`, but for the counter of progressive growing, which StyleGAN2 keeps unused."""
    tensors.ignore(name for name in tensors.tensors if name.rsplit("/", 1)[-1] == "lod")
    tensors.check_all_known()


def _shared_fields(arguments: Arguments) -> dict[str, Any]:
    """The fields that the configurations of both networks share."""
    taps = arguments.pop_list("resample_kernel") or FIR_TAPS
    return {
        "resolution": arguments.pop_resolution(),
        "c_dim": arguments.pop("label_size", 0),
        "img_channels": arguments.pop("num_channels", 3),
        "channel_base": 2 * int(arguments.pop("fmap_base", 16384)),
        "channel_max": arguments.pop("fmap_max", 512),
        "num_fp16_res": arguments.pop("num_fp16_res", 0),
        "conv_clamp": arguments.pop("conv_clamp", None),
        "resample_filter": tuple(taps),
    }
