"""Reader of StyleGAN1 on TensorFlow, the project stylegan: networks as lists of named variables and keyword arguments.

Layouts differ from ours as those of StyleGAN2 do (`tensorflow.py`), and in two more ways:

- The factors of a style are stored less one.
- In large images, an upsampling layer is a transposed convolution, whose kernel is rotated by 180 degrees against that of
  a convolution behind nearest-neighbour upsampling.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError, UnsupportedNetworkError, printable
from stylert.models.importers.records import StoredObject, StoredTensor
from stylert.models.importers.settings import mapping_gain, mapping_gain_notes, valid_configuration
from stylert.models.importers.tensorflow_records import Arguments, is_tensorflow, network_variables
from stylert.models.importers.weights import Arrays, ImportedNetworks, TensorReader
from stylert.models.network_config import is_finite
from stylert.models.stylegan1.config import BLUR_TAPS, W_AVG_BETA, GeneratorConfig, LayerSpec
from stylert.models.stylegan1.state_dict import generator_shapes
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER
from stylert.plugins.constants import ACTIVATION_GAIN

#: With `fused_scale` "auto", upsampling layers are transposed convolutions from this resolution on.
MIN_FUSED_RESOLUTION = 128

#: Arguments that change training or evaluation, but not the network itself.
IGNORED_ARGUMENTS = {
    *("truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val", "style_mixing_prob"),
    *("randomize_noise", "structure", "dlatent_broadcast", "mapping_func", "synthesis_func"),
}
#: Arguments that change the network, and the values that stylert's has.
FIXED_ARGUMENTS: dict[str, tuple[object, ...]] = {
    "dtype": ("float32",),
    "nonlinearity": ("lrelu",),
    "mapping_nonlinearity": ("lrelu",),
    "normalize_latents": (True,),
    "const_input_layer": (True,),
    "use_styles": (True,),
    "use_noise": (True,),
    "use_wscale": (True,),
    "use_instance_norm": (True,),
    "use_pixel_norm": (False,),
}


def is_tensorflow_stylegan1(data: object) -> bool:
    """Whether this is a tuple of TensorFlow networks of which the last one is a StyleGAN1 generator."""
    if not isinstance(data, tuple) or not is_tensorflow(data):
        return False
    averaged = data[-1]
    if averaged.state.get("build_func_name") == "G_style":
        return True
    return any("/StyleMod/" in name for name in network_variables(averaged, "Gs"))


def read_tensorflow_stylegan1(data: tuple[Any, ...], training: bool, budget: Budget) -> ImportedNetworks:
    """Read Gs of the tuple `(G, D, Gs)`. stylert trains no StyleGAN1, so G and D are dropped. Raises FormatError."""
    if len(data) != 3:
        raise FormatError(f"it holds {len(data)} TensorFlow networks where StyleGAN has three")
    imported = _read_generator(data[-1], "Gs", budget)
    if training:
        imported.notes += [f"dropped {name}: stylert trains no StyleGAN1" for name in ("G", "D")]
    return imported


def _read_generator(network_object: StoredObject, network: str, budget: Budget) -> ImportedNetworks:
    variables = network_variables(network_object, network)
    arguments = Arguments(network_object, network, IGNORED_ARGUMENTS, FIXED_ARGUMENTS)
    w_dim, layers = arguments.pop("dlatent_size", 512), arguments.pop("mapping_layers", 8)
    if (features := arguments.pop("mapping_fmaps", 512)) != w_dim and layers != 1:
        raise UnsupportedNetworkError(
            f"its {network} has mapping layers of {printable(features)} features, not {printable(w_dim)}"
        )
    lr = arguments.pop("mapping_lrmul", MAPPING_LR_MULTIPLIER)
    beta = arguments.pop("dlatent_avg_beta", W_AVG_BETA)
    base = arguments.pop("fmap_base", 8192)
    if not is_finite(base) or int(2 * base) != 2 * base:
        raise UnsupportedNetworkError(f"its {network} has fmap_base = {printable(base)}")
    blur = arguments.values.pop("blur_filter", list(BLUR_TAPS))
    if not isinstance(blur, list | tuple) or tuple(blur) != BLUR_TAPS:
        raise UnsupportedNetworkError(f"its {network} has another blur_filter than [1, 2, 1]")
    fused = arguments.pop("fused_scale", "auto")
    if fused not in (True, False, "auto"):
        raise UnsupportedNetworkError(f"its {network} has fused_scale = {printable(fused)}")
    fields: dict[str, Any] = {
        "resolution": arguments.pop_resolution(),
        "z_dim": arguments.pop("latent_size", 512),
        "c_dim": arguments.pop("label_size", 0),
        "w_dim": w_dim,
        "img_channels": arguments.pop("num_channels", 3),
        "channel_base": int(2 * base),
        "channel_max": arguments.pop("fmap_max", 512),
        "channel_decay": arguments.pop("fmap_decay", 1.0),
        "mapping_layers": layers,
        "w_avg_beta": W_AVG_BETA if beta is None else beta,
    }
    with valid_configuration(network):
        config = GeneratorConfig(**fields)
    arguments.check_empty()
    gain = mapping_gain(lr, network)
    tensors = TensorReader(network, variables, budget, config.title)
    _check_growth(tensors)
    specs = {f"synthesis.{spec.name}": spec for spec in config.layers()}
    arrays: Arrays = {}
    for name, shape in generator_shapes(config).items():
        layer, tensor = name.rsplit(".", 1)
        spec = specs.get(layer.removesuffix(".affine"))
        array = _read_variable(tensors, _variable(name, spec), tensor, shape)
        if layer.startswith("mapping.fc"):
            # Our gain of sqrt(2) is behind the leaky ReLU, that of the file in the weights alone.
            array = array * np.float32(gain if tensor == "weight" else gain / ACTIVATION_GAIN["lrelu"])
        elif layer.endswith(".affine") and tensor == "bias":
            array[: len(array) // 2] += 1
        elif len(shape) == 4 and spec is not None and spec.up == 2 and _is_rotated(spec, fused):
            array = np.ascontiguousarray(array[:, :, ::-1, ::-1])
        arrays[name] = array
    # Those that the network used while it grew, and a counter.
    tensors.ignore(name for name in variables if "/ToRGB_lod" in name or name.rsplit("/", 1)[-1] == "lod")
    tensors.check_all_known()
    return ImportedNetworks(config, arrays, notes=mapping_gain_notes(lr, network))


def _variable(name: str, spec: LayerSpec | None) -> str:
    """The TensorFlow variable of one of our names. `spec` is the layer, if the tensor belongs to one."""
    if name == "mapping.w_avg":
        return "dlatent_avg"
    if name == "mapping.label_embed.weight":
        return "mapping/LabelConcat/weight"
    if match := re.fullmatch(r"mapping\.fc(\d+)\.(\w+)", name):
        return f"mapping/Dense{match[1]}/{match[2]}"
    assert spec is not None
    tensor = name.removeprefix(f"synthesis.{spec.name}.")
    if spec.kind == "torgb":
        return f"synthesis/ToRGB_lod0/{tensor}"
    if tensor == "noise_const":
        return f"synthesis/noise{spec.ws_index}"
    part = {"b4.input": "Const", "b4.conv1": "Conv"}.get(spec.name, "Conv0_up" if spec.up == 2 else "Conv1")
    variable = {"noise_strength": "Noise/weight"}.get(tensor, tensor.replace("affine.", "StyleMod/"))
    return f"synthesis/{spec.resolution}x{spec.resolution}/{part}/{variable}"


def _read_variable(tensors: TensorReader, variable: str, tensor: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of this shape, from the layout of its TensorFlow variable."""
    if tensor == "noise_const":
        return tensors.read(variable, (1, 1, *shape)).reshape(shape)
    if tensor == "const":
        return tensors.read(variable, (1, *shape)).reshape(shape)
    if len(shape) == 2:
        return np.ascontiguousarray(tensors.read(variable, shape[::-1]).T)
    if len(shape) == 4:
        out_channels, in_channels, kernel, _ = shape
        array = tensors.read(variable, (kernel, kernel, in_channels, out_channels))
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    return tensors.read(variable, shape)


def _is_rotated(spec: LayerSpec, fused: object) -> bool:
    """Whether the kernel of an upsampling layer is that of a transposed convolution."""
    return spec.resolution >= MIN_FUSED_RESOLUTION if fused == "auto" else bool(fused)


def _check_growth(tensors: TensorReader) -> None:
    """Refuse a network that is still growing: its image is a mixture of two resolutions."""
    name = "synthesis/lod"
    if name in tensors and isinstance(tensors.tensors[name], StoredTensor):
        lod = float(tensors.read(name, ()))
        if lod != 0:
            raise UnsupportedNetworkError(f"its {tensors.network} is still growing: its level of detail is {lod:g}, not 0")
