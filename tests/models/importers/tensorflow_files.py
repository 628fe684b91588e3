"""A writer of the checkpoints of StyleGAN2 on TensorFlow, from stylert's own state dicts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from stylert.models.stylegan2.config import DiscriminatorConfig, GeneratorConfig
from stylert.models.stylegan2.networks import Discriminator
from tests.models.importers.pickle_writer import Call, PickleWriter, number_record


def tensorflow_layout(name: str, value: np.ndarray) -> np.ndarray:
    """An official tensor in the layout of TensorFlow."""
    if name.endswith("noise_const"):
        return value[None, None]
    if name.endswith("b4.const"):
        return value[None]
    if name.endswith("affine.bias"):
        return value - np.float32(1)
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        return value[::-1, ::-1] if "conv0" in name and name.startswith("synthesis") else value
    return value.T if value.ndim == 2 else value


def tensorflow_generator(state: dict[str, np.ndarray], arguments: dict[str, Any], **changes: Any) -> Call:
    mapping, synthesis = [], []
    for name, value in state.items():
        if name.endswith("resample_filter") or name == "mapping.w_avg":
            continue
        parts = name.split(".")
        v = np.array(tensorflow_layout(name, value), order="C")
        if parts[0] == "mapping":
            scope = "LabelEmbed" if parts[1] == "embed" else f"Dense{parts[1][2:]}"
            mapping.append((f"{scope}/{parts[2]}", v))
            continue
        res = int(parts[1][1:])
        if parts[2] == "const":
            synthesis.append(("4x4/Const/const", v))
        elif parts[3] == "noise_const":
            synthesis.append((f"noise{int(math.log2(res)) * 2 - (5 if parts[2] == 'conv0' else 4)}", v))
        else:
            scopes = {"conv0": "Conv0_up", "conv1": "Conv" if res == 4 else "Conv1", "torgb": "ToRGB", "skip": "Skip"}
            tensor = f"mod_{parts[4]}" if parts[3] == "affine" else parts[3]
            synthesis.append((f"{res}x{res}/{scopes[parts[2]]}/{tensor}", v if v.ndim else number_record(float(v))))
    components = {
        "mapping": tensorflow_network("G_mapping", mapping, {}),
        "synthesis": tensorflow_network("G_syn", synthesis, {}),
    }
    own = [("lod", number_record(0.0)), ("dlatent_avg", state["mapping.w_avg"])]
    return tensorflow_network("G_main", own, arguments, components, **changes)


def tensorflow_discriminator(state: dict[str, np.ndarray], arguments: dict[str, Any], **changes: Any) -> Call:
    variables = []
    for name, value in state.items():
        if name.endswith("resample_filter"):
            continue
        parts = name.split(".")
        scopes = {"b4.conv": "4x4/Conv", "b4.fc": "4x4/Dense0", "b4.out": "Output", "mapping.embed": "LabelEmbed"}
        kinds = {"fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip"}
        scope = scopes.get(".".join(parts[:2]))
        if scope is None:
            res = parts[0][1:]
            scope = f"Mapping{parts[1][2:]}" if parts[0] == "mapping" else f"{res}x{res}/{kinds[parts[1]]}"
        variables.append((f"{scope}/{parts[2]}", np.array(tensorflow_layout(name, value), order="C")))
    return tensorflow_network("D_stylegan2", variables, arguments, **changes)


def tensorflow_network(
    function: str, own: Any, arguments: Any, components: Any = None, source: str = "", **changes: Any
) -> Call:
    state = {
        "version": 4,
        "name": function,
        "static_kwargs": arguments,
        "components": components or {},
        "build_module_src": source,
        "build_func_name": function,
        "variables": [tuple(v) for v in own],
        **changes,
    }
    return Call("dnnlib.tflib.network", "Network", (), state=state, new=True)


def tensorflow_arguments(cfg: GeneratorConfig | DiscriminatorConfig) -> dict[str, Any]:
    given = {
        "resolution": cfg.resolution,
        "num_channels": cfg.img_channels,
        "label_size": cfg.c_dim,
        "fmap_base": cfg.channel_base // 2,
        "fmap_max": cfg.channel_max,
        "architecture": cfg.architecture,
        "mapping_layers": cfg.mapping_layers,
        "resample_kernel": [1, 3, 3, 1],
    }
    if isinstance(cfg, GeneratorConfig):
        return given | {"latent_size": cfg.z_dim, "dlatent_size": cfg.w_dim, "mapping_fmaps": cfg.w_dim, "truncation_psi": 1.0}
    return given | {"mbstd_group_size": cfg.mbstd_group_size, "mapping_lrmul": 0.01, "mapping_fmaps": cfg.cmap_dim or 512}


def numpy_state(module: nn.Module) -> dict[str, np.ndarray]:
    return {k: v.detach().numpy() for k, v in module.state_dict().items()}


def tensorflow_file(path: Path, generator: Any, raw: Any = None, discriminator: Any = None, **changes: Any) -> Path:
    """Write `(G, D, Gs)`. `changes` may hold `arguments` of Gs, and `change`, which may replace any part."""
    raw = raw or generator
    d = discriminator or Discriminator(DiscriminatorConfig(8, channel_base=32, channel_max=4))
    nets = (
        tensorflow_generator(numpy_state(raw), tensorflow_arguments(raw.cfg)),
        tensorflow_discriminator(numpy_state(d), tensorflow_arguments(d.cfg), build_func_name="D_main"),
        tensorflow_generator(numpy_state(generator), tensorflow_arguments(generator.cfg) | changes.get("arguments", {})),
    )
    path.write_bytes(PickleWriter(3).dumps(changes.get("change", lambda x: x)(nets)))
    return path
