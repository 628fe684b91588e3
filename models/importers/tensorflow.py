"""StyleGAN2 and StyleGAN2-ADA of the TensorFlow era: networks as lists of named variables and keyword arguments.

TensorFlow keeps kernels as [k, k, in, out] and matrices as [in, out], the styles' biases less the one that is added to
them, and the kernels of the upsampling convolutions turned by 180 degrees against PyTorch's transposed convolution.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from stylert.models.importers.records import Allowance, NumpyArray, Record, Storage, Tensor
from stylert.models.importers.refusal import Refused, Unrepresentable, shown
from stylert.models.importers.weights import Arrays, Networks, Taker, fir_filter
from stylert.models.stylegan2.config import MAPPING_LR_MULTIPLIER, DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.state_dict import discriminator_shapes, generator_shapes

EPSILON_NOTE = "StyleGAN2 on TensorFlow weighs the epsilon of the demodulation otherwise: images agree to float32 rounding"
#: Arguments that change training or evaluation, never the function of the network at rest.
PASSING = {
    *("truncation_psi", "truncation_cutoff", "truncation_psi_val", "truncation_cutoff_val", "style_mixing_prob"),
    *("randomize_noise", "fused_modconv", "structure", "dlatent_broadcast", "mapping_func", "synthesis_func", "freeze_layers"),
}
#: Arguments that change the function, and the only value that StyleGAN2 has.
FIXED: dict[str, tuple[object, ...]] = {
    "fmap_min": (1,),
    "fmap_decay": (1, 1.0),
    "dtype": ("float32",),
    "normalize_latents": (True,),
    "nonlinearity": ("lrelu",),
    "mapping_nonlinearity": ("lrelu",),
    "use_noise": (True,),
    "label_fmaps": (None,),
}


def is_tensorflow(data: object) -> bool:
    return isinstance(data, tuple) and bool(data) and all(isinstance(n, Record) and n.kind == "Network" for n in data)


def tensorflow_networks(data: tuple[Any, ...], training: bool, allowance: Allowance) -> Networks:
    """The networks of the tuple `(G, D, Gs)`; G and D only when `training`. Raises Refused."""
    if len(data) != 3:
        raise Refused(f"it holds {len(data)} TensorFlow networks where StyleGAN2 has three")
    raw, discriminator, averaged = data
    config, arrays, notes = _generator(averaged, "Gs", allowance)
    networks = Networks(config, arrays, notes=notes)
    if training:
        try:
            raw_config, raw_arrays, _ = _generator(raw, "G", allowance)
            if raw_config != config:
                raise Unrepresentable("G is configured otherwise than Gs")
            networks.raw = raw_arrays
        except Unrepresentable as e:
            notes.append(f"dropped G: {e}")
        try:
            networks.discriminator_config, networks.discriminator = _discriminator(discriminator, allowance, notes)
        except Unrepresentable as e:
            notes.append(f"dropped D: {e}")
    return networks


def _generator(network: Record, what: str, allowance: Allowance) -> tuple[GeneratorConfig, Arrays, list[str]]:
    variables = _variables(network, what)
    _check_generation(network, variables, what)
    given = _Arguments(network, what)
    z_dim, w_dim = given.take("latent_size", 512), given.take("dlatent_size", 512)
    lr = given.take("mapping_lrmul", MAPPING_LR_MULTIPLIER)
    beta = given.take("w_avg_beta", given.take("dlatent_avg_beta", 0.995))
    features = given.take("mapping_fmaps", None)
    layers = given.take("mapping_layers", 8)
    if features not in (None, w_dim) and layers != 1:
        raise Unrepresentable(f"its {what} has mapping layers of {shown(features)} features, not {shown(w_dim)}")
    config = given.config(
        GeneratorConfig,
        z_dim=z_dim,
        w_dim=w_dim,
        mapping_layers=layers,
        w_avg_beta=0.995 if beta is None else beta,
        architecture=given.take("architecture", "skip"),
    )
    given.check_empty()
    lr_gain = _lr_gain(lr, what)
    tensors = Taker(what, variables, allowance)
    arrays = _arrays(tensors, generator_shapes(config), _generator_name, config.resample_filter, lr_gain)
    tensors.leave(n for n in variables if n.rsplit("/", 1)[-1] == "lod")
    tensors.check_empty()
    return config, arrays, [EPSILON_NOTE, *_lr_note(lr, what)]


def _generator_name(name: str) -> str:
    """The TensorFlow variable behind an official name."""
    if name == "mapping.w_avg":
        return "dlatent_avg"
    if m := re.fullmatch(r"mapping\.fc(\d+)\.(\w+)", name):
        return f"mapping/Dense{m[1]}/{m[2]}"
    if m := re.fullmatch(r"mapping\.embed\.(\w+)", name):
        return f"mapping/LabelEmbed/{m[1]}"
    if name == "synthesis.b4.const":
        return "synthesis/4x4/Const/const"
    match = re.fullmatch(r"synthesis\.b(\d+)\.(conv0|conv1|torgb|skip)\.(.+)", name)
    assert match is not None
    res, layer, tensor = int(match[1]), match[2], match[3]
    if tensor == "noise_const":
        return f"synthesis/noise{2 * res.bit_length() - 2 - (5 if layer == 'conv0' else 4)}"
    scope = {"conv0": "Conv0_up", "conv1": "Conv" if res == 4 else "Conv1", "torgb": "ToRGB", "skip": "Skip"}[layer]
    return f"synthesis/{res}x{res}/{scope}/{tensor.replace('affine.', 'mod_')}"


def _discriminator(network: Record, allowance: Allowance, notes: list[str]) -> tuple[DiscriminatorConfig, Arrays]:
    what = "D"
    variables = _variables(network, what)
    given = _Arguments(network, what)
    # Two generations of the code: StyleGAN2's groups four samples and weighs the labels directly, ADA's maps them.
    first = network.state.get("build_func_name") == "D_stylegan2"
    group = given.take("mbstd_group_size", 4 if first else None)
    layers, lr = given.take("mapping_layers", 0), given.take("mapping_lrmul", 0.1)
    features = given.take("mapping_fmaps", None)
    count = given.take("mbstd_num_features", 1)
    labelled = bool(given.values.get("label_size"))
    if labelled and (first or not layers):
        raise Unrepresentable("its labels go in without mapping layers")
    if group is not None and (type(group) is not int or group < 0):
        raise Unrepresentable(f"its minibatch deviation has groups of {shown(group)}")
    off = group in (0, 1)  # the first generation's way to leave it out
    config = given.config(
        DiscriminatorConfig,
        mapping_layers=layers if labelled else 8,
        architecture=given.take("architecture", "resnet"),
        mbstd_group_size=None if off else group,
        mbstd_num_channels=0 if off else count,
    )
    given.check_empty()
    if config.c_dim and features not in (None, config.cmap_dim):
        raise Unrepresentable(f"its labels are mapped to {shown(features)} features, not {config.cmap_dim}")
    lr_gain = _lr_gain(lr, what) if labelled else np.float32(1)
    tensors = Taker(what, variables, allowance)
    arrays = _arrays(tensors, discriminator_shapes(config), _discriminator_name, config.resample_filter, lr_gain)
    tensors.leave(n for n in variables if n.rsplit("/", 1)[-1] == "lod")
    tensors.check_empty()
    notes += _lr_note(lr, what) if labelled else []
    if first and "mbstd_group_size" not in network.state["static_kwargs"]:
        notes.append("D does not say its minibatch deviation's group: assumed 4, its code's default")
    return config, arrays


def _discriminator_name(name: str) -> str:
    scopes = {"b4.conv": "4x4/Conv", "b4.fc": "4x4/Dense0", "b4.out": "Output", "mapping.embed": "LabelEmbed"}
    layer, tensor = name.rsplit(".", 1)
    if layer in scopes:
        return f"{scopes[layer]}/{tensor}"
    if m := re.fullmatch(r"mapping\.fc(\d+)", layer):
        return f"Mapping{m[1]}/{tensor}"
    block, part = layer.split(".")
    scope = {"fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip"}[part]
    return f"{block[1:]}x{block[1:]}/{scope}/{tensor}"


def _arrays(
    tensors: Taker,
    shapes: Mapping[str, tuple[int, ...]],
    theirs: Callable[[str], str],
    taps: tuple[float, ...],
    lr_gain: np.float32,
) -> Arrays:
    """Every tensor of a network under our names; `theirs` translates, and `lr_gain` makes the mapping layers' multiplier ours."""
    arrays: Arrays = {}
    for name, shape in shapes.items():
        if name.endswith("resample_filter"):
            arrays[name] = fir_filter(taps)
        elif name.startswith("mapping.fc"):
            arrays[name] = _take(tensors, theirs(name), name, shape) * lr_gain
        else:
            arrays[name] = _take(tensors, theirs(name), name, shape)
    return arrays


def _take(tensors: Taker, variable: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The official tensor `name` out of the TensorFlow layout of its variable."""
    if name.endswith("noise_const") or name == "synthesis.b4.const":
        lead = (1, 1) if name.endswith("noise_const") else (1,)
        return tensors.take(variable, (*lead, *shape)).reshape(shape)
    if len(shape) == 2:
        return np.ascontiguousarray(tensors.take(variable, shape[::-1]).T)
    if len(shape) == 4:
        o, i, k, _ = shape
        array = tensors.take(variable, (k, k, i, o))
        if re.fullmatch(r"synthesis\.b\d+\.(conv0|skip)\.weight", name):
            array = array[::-1, ::-1]
        return np.ascontiguousarray(array.transpose(3, 2, 0, 1))
    array = tensors.take(variable, shape)
    return array + np.float32(1) if name.endswith("affine.bias") else array


# --- what a network says of itself ---------------------------------------------------------------------------------


def _variables(network: Record, what: str) -> dict[str, Tensor]:
    """The variables of a network and its parts by name, `mapping/Dense0/weight`."""
    found: dict[str, Tensor] = {}
    parts = network.state.get("components")
    parts = parts if type(parts) is dict else {}
    if len(parts) > 8 or not all(isinstance(k, str) and isinstance(v, Record) for k, v in parts.items()):
        raise Refused(f"its {what} has parts that are no networks")
    for prefix, part in [("", network), *((f"{k}/", v) for k, v in parts.items())]:
        variables = part.state.get("variables")
        if type(variables) is not list:
            raise Refused(f"its {what} has no list of variables")
        for pair in variables:
            match pair:
                case (str(name), NumpyArray(tensor=Tensor() as tensor)):
                    pass
                case (str(name), int() | float() as number):
                    data = memoryview(np.float64(number).tobytes())
                    tensor = Tensor(Storage("DoubleStorage", 1, data), 0, (), ())
                case _:
                    raise Refused(f"its {what} has a variable in an unknown form")
            found[re.sub(r"^G_(mapping|synthesis)/", r"\1/", prefix + name)] = tensor
    return found


def _check_generation(network: Record, variables: dict[str, Tensor], what: str) -> None:
    """Other networks of this format are refused by their own name."""
    if network.state.get("build_func_name") == "G_style" or any("/StyleMod/" in n for n in variables):
        raise Refused(f"its {what} is a StyleGAN1 generator; stylert reads StyleGAN2")
    if any("/ToRGB_lod" in n for n in variables):
        raise Refused(f"its {what} grows progressively (StyleGAN2 configurations B to D, or older); stylert reads E and F")
    if any("LabelConcat" in n for n in variables):
        raise Unrepresentable(f"its {what} joins labels to z before normalising both (LabelConcat), which stylert's does not")


class _Arguments:
    """The keyword arguments of a network, each to be taken; what is left over is refused by name."""

    def __init__(self, network: Record, what: str) -> None:
        given = network.state.get("static_kwargs")
        if type(given) is not dict or not all(isinstance(k, str) for k in given):
            raise Refused(f"its {what} has no arguments")
        self.what = what
        self.values: dict[str, Any] = {k: v for k, v in given.items() if k not in PASSING}

    def take(self, name: str, default: Any) -> Any:
        value = self.values.pop(name, default)
        if value is not None and not isinstance(value, str | int | float | bool):
            raise Refused(f"its {self.what} has {name} = {shown(value)}")
        return value

    def config(self, cls: Callable[..., Any], **fields: Any) -> Any:
        """The configuration, with the fields that both networks share."""
        taps = self.values.pop("resample_kernel", None) or [1, 3, 3, 1]
        base = self.take("fmap_base", 16384)
        clamp = self.take("conv_clamp", None)
        try:
            return cls(
                resolution=self.take("resolution", 1024),
                c_dim=self.take("label_size", 0),
                img_channels=self.take("num_channels", 3),
                channel_base=2 * int(base),
                channel_max=self.take("fmap_max", 512),
                num_fp16_res=self.take("num_fp16_res", 0),
                conv_clamp=clamp,
                resample_filter=tuple(taps),
                **fields,
            )
        except (TypeError, ValueError, OverflowError) as e:
            message = " ".join(str(e).split())[:200]
            raise Unrepresentable(f"its {self.what} has no valid configuration: {message}") from None

    def check_empty(self) -> None:
        for name, value in self.values.items():
            if name not in FIXED or not any(type(value) is type(v) and value == v for v in FIXED[name]):
                raise Unrepresentable(f"its {self.what} has {shown(name)} = {shown(value)}, which stylert's networks have not")


def _lr_gain(lr: object, what: str) -> np.float32:
    if not isinstance(lr, int | float) or not 1e-6 < lr < 1e6:
        raise Unrepresentable(f"its {what} has the mapping learning rate multiplier {shown(lr)}")
    return np.float32(lr / MAPPING_LR_MULTIPLIER)


def _lr_note(lr: float, what: str) -> list[str]:
    if lr == MAPPING_LR_MULTIPLIER:
        return []
    return [
        f"{what} has mapping learning rate multiplier {lr:g}: its weights are rescaled to that of {MAPPING_LR_MULTIPLIER:g}"
    ]
