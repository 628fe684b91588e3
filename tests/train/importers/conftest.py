"""Checkpoints of other projects, written from their layouts alone, and the paper in float64 for every architecture.

Pickles are assembled opcode by opcode, so a file can name what does not exist here, or should never be run.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stylert.train import networks as ours
from stylert.train.config import DiscriminatorConfig, GeneratorConfig


class Call:
    """In the file, `module.name(*args)`, and then its state."""

    def __init__(self, module: str, name: str, args: Any = (), state: Any = None, new: bool = False) -> None:
        self.module, self.name, self.args, self.state, self.new = module, name, args, state, new


class Outside:
    """In the file, a persistent identifier."""

    def __init__(self, identifier: Any) -> None:
        self.identifier = identifier


class Name:
    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class PickleWriter:
    """Pickles of plain values, `Call`, `Outside` and `Name`, protocol 2 (as torch's) or 4 (as Python's)."""

    def __init__(self, protocol: int = 4) -> None:
        self.protocol, self.out = protocol, bytearray(pickle.PROTO + bytes([protocol]))
        self.known: dict[str, int] = {}

    def dumps(self, value: Any) -> bytes:
        self.write(value)
        return bytes(self.out + pickle.STOP)

    def write(self, value: Any) -> None:
        out = self.out
        match value:
            case None:
                out += pickle.NONE
            case bool():
                out += pickle.NEWTRUE if value else pickle.NEWFALSE
            case int() if 0 <= value < 256:
                out += pickle.BININT1 + bytes([value])
            case int() if -(2**31) <= value < 2**31:
                out += pickle.BININT + struct.pack("<i", value)
            case int():
                raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
                out += pickle.LONG1 + bytes([len(raw)]) + raw
            case float():
                out += pickle.BINFLOAT + struct.pack(">d", value)
            case str() if value in self.known:
                out += pickle.LONG_BINGET + struct.pack("<I", self.known[value])
            case str():
                raw = value.encode()
                out += pickle.BINUNICODE + struct.pack("<I", len(raw)) + raw
                self.known[value] = len(self.known)
                out += pickle.LONG_BINPUT + struct.pack("<I", self.known[value])
            case bytes():
                out += pickle.BINBYTES + struct.pack("<I", len(value)) + value
            case tuple():
                self._items(pickle.MARK, value, pickle.TUPLE)
            case list():
                self._items(pickle.EMPTY_LIST + pickle.MARK, value, pickle.APPENDS)
            case dict():
                self._items(pickle.EMPTY_DICT + pickle.MARK, [x for pair in value.items() for x in pair], pickle.SETITEMS)
            case Name():
                out += pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode()
            case Outside():
                self.write(value.identifier)
                out += pickle.BINPERSID
            case Call():
                if self.protocol >= 4:
                    self.write(value.module)
                    self.write(value.name)
                    out += pickle.STACK_GLOBAL
                else:
                    self.write(Name(value.module, value.name))
                self.write(value.args)
                out += pickle.NEWOBJ if value.new else pickle.REDUCE
                if value.state is not None:
                    self.write(value.state)
                    out += pickle.BUILD
            case np.ndarray():
                self.write(array_record(value))
            case torch.Tensor():
                self.write(tensor_record(value))
            case _:
                raise TypeError(type(value))

    def _items(self, before: bytes, items: Any, after: bytes) -> None:
        self.out += before
        for item in items:
            self.write(item)
        self.out += after


def array_record(array: np.ndarray, shape: tuple[int, ...] | None = None) -> Call:
    dtype = Call("numpy", "dtype", (array.dtype.str[1:], False, True), state=(3, "<", None, None, None, -1, -1, 0))
    made = ("numpy.core.multiarray", "_reconstruct", (Name("numpy", "ndarray"), (0,), b"b"))
    order = array.ndim > 1 and not array.flags.c_contiguous and array.flags.f_contiguous
    state = (1, shape or array.shape, dtype, bool(order), array.tobytes("F" if order else "C"))
    return Call(*made, state=state)


def number_record(value: float) -> Call:
    dtype = Call("numpy", "dtype", ("f8", False, True), state=(3, "<", None, None, None, -1, -1, 0))
    return Call("numpy.core.multiarray", "scalar", (dtype, struct.pack("<d", value)))


def storage_bytes(tensor: torch.Tensor) -> bytes:
    """A storage as torch itself pickles it."""
    buffer = io.BytesIO()
    torch.save(
        torch.storage.TypedStorage(
            wrap_storage=tensor.detach().contiguous().untyped_storage(), dtype=tensor.dtype, _internal=True
        ),
        buffer,
        _use_new_zipfile_serialization=False,
    )
    return buffer.getvalue()


def tensor_record(tensor: torch.Tensor, **changes: Any) -> Call:
    """A tensor in an official pickle; `changes` lie about offset, shape or stride."""
    whole = tensor.detach().contiguous()
    storage = Call("torch.storage", "_load_from_bytes", (storage_bytes(whole),))
    facts = {"offset": 0, "shape": tuple(whole.shape), "stride": whole.stride(), **changes}
    hooks = Call("collections", "OrderedDict")
    return Call("torch._utils", "_rebuild_tensor_v2", (storage, facts["offset"], facts["shape"], facts["stride"], False, hooks))


# --- official pickles ----------------------------------------------------------------------------------------------


def official_module(name: str, state: dict[str, Any], source: str = "") -> Call:
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": name, "state": state}
    return Call("torch_utils.persistence", "_reconstruct_persistent_obj", (meta,))


def official_record(module: nn.Module, cfg: Any, options: dict[str, Any] | None = None, path: str = "") -> Call:
    """A module of stylert's as the official code would have pickled it; the names of both are the same.

    `options`: `lr` (mapping multiplier), `noise` (False leaves it out), `source`, `frozen`, `kwargs` of the constructor.
    """
    options = options or {}
    parameters = {k: Call("torch._utils", "_rebuild_parameter", (v, True, Call("collections", "OrderedDict")))
                  for k, v in _own(module, "_parameters", path, options).items()}  # fmt: skip
    buffers = dict(module._buffers)
    if options.get("frozen") and isinstance(module, ours.Conv2d):
        buffers |= {k: v for k, v in module._parameters.items() if v is not None}
        parameters = {}
    if isinstance(module, ours.SynthesisLayer) and not options.get("noise", True):
        parameters.pop("noise_strength")
        buffers.pop("noise_const")
    children = {k: official_record(m, cfg, options, f"{path}.{k}" if path else k) for k, m in module._modules.items()}
    if isinstance(module, ours.DiscriminatorEpilogue) and cfg.mbstd_num_channels:
        deviation = {"group_size": cfg.mbstd_group_size, "num_channels": cfg.mbstd_num_channels}
        children["mbstd"] = official_module("MinibatchStdLayer", _state(deviation, {}, {}, {}))
    attributes, name = _attributes(module, cfg, options, path)
    if not path:
        attributes["_init_args"], attributes["_init_kwargs"] = (), options.get("kwargs", {})
    return official_module(name, _state(attributes, parameters, buffers, children), options.get("source", ""))


def _own(module: nn.Module, kind: str, path: str, options: dict[str, Any]) -> dict[str, Any]:
    own = {k: v for k, v in getattr(module, kind).items() if v is not None}
    if ".fc" in f".{path}" and "mapping" in path:  # stored for another learning rate multiplier
        own = {k: v.detach().double().mul(0.01 / options.get("lr", 0.01)).float() for k, v in own.items()}
    return own


def _state(attributes: Any, parameters: Any, buffers: Any, children: Any) -> dict[str, Any]:
    return {
        "training": False,
        **attributes,
        "_parameters": parameters,
        "_buffers": buffers,
        "_non_persistent_buffers_set": Call("builtins", "set", ([],)),
        "_backward_hooks": Call("collections", "OrderedDict"),
        "_modules": children,
    }


def _attributes(module: nn.Module, cfg: Any, options: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    match module:
        case ours.FullyConnected():
            lr = options.get("lr", 0.01) if ".fc" in f".{path}" and "mapping" in path else 1
            gain = number_record(lr / module.weight.shape[1] ** 0.5)
            return {"activation": module.activation, "weight_gain": gain, "bias_gain": lr}, "FullyConnectedLayer"
        case ours.Conv2d():
            return {"activation": module.activation, "conv_clamp": module.clamp, "down": module.down}, "Conv2dLayer"
        case ours.SynthesisLayer():
            noise = options.get("noise", True)
            facts = {"use_noise": noise, "activation": options.get("activation", "lrelu"), "conv_clamp": module.clamp}
            return facts, "SynthesisLayer"
        case ours.ToRGB():
            return {"conv_clamp": module.clamp}, "ToRGBLayer"
        case ours.SynthesisBlock() | ours.DiscriminatorBlock():
            facts = {"architecture": cfg.architecture, "use_fp16": module.use_fp16}
            return facts, type(module).__name__
        case ours.MappingNetwork():
            names = ("z_dim", "c_dim", "w_dim", "num_ws", "w_avg_beta")
            return {n: getattr(module, n) for n in names} | {"num_layers": module.num_layers}, "MappingNetwork"
        case ours.Discriminator():
            return {"c_dim": cfg.c_dim, "img_resolution": cfg.resolution}, "Discriminator"
        case ours.DiscriminatorEpilogue():
            return {"architecture": cfg.architecture}, "DiscriminatorEpilogue"
        case _:
            return {}, type(module).__name__


def official_file(path: Path, generator: nn.Module, raw: Any = None, discriminator: Any = None, **options: Any) -> Path:
    """`{training_set_kwargs, G, D, G_ema, augment_pipe}`."""
    data: dict[str, Any] = {"training_set_kwargs": Call("dnnlib.util", "EasyDict", new=True)}
    if raw is not None:
        data["G"] = official_record(raw, raw.cfg, options)
    if discriminator is not None:
        data["D"] = official_record(discriminator, discriminator.cfg, options)
    data["G_ema"] = official_record(generator, generator.cfg, options)
    data["augment_pipe"] = official_module("AugmentPipe", _state({}, {}, {"p": torch.tensor(0.25)}, {}))
    path.write_bytes(PickleWriter().dumps(options.get("change", lambda x: x)(data)))
    return path


# --- rosinality ----------------------------------------------------------------------------------------------------


def rosinality_generator(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An official state dict under rosinality's names and shapes."""
    out: dict[str, torch.Tensor] = {}
    kernel = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 16
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "mapping":
            if parts[1] != "w_avg":
                out[f"style.{int(parts[1][2:]) + 1}.{parts[2]}"] = value
            continue
        level = int(math.log2(int(parts[1][1:]))) - 3  # -1 at 4 px
        rest = ".".join(parts[3:])
        if parts[2] == "const":
            out["input.input"] = value[None]
        elif parts[2] == "torgb":
            at = "to_rgb1" if level < 0 else f"to_rgbs.{level}"
            if rest == "bias":
                out[f"{at}.bias"] = value.reshape(1, -1, 1, 1)
            else:
                out[f"{at}.conv.{rest.replace('affine', 'modulation')}"] = value[None] if rest == "weight" else value
            if level >= 0:
                out[f"{at}.upsample.kernel"] = kernel
        elif parts[2].startswith("conv"):
            second = int(parts[2][4:])
            at = "conv1" if level < 0 else f"convs.{2 * level + second}"
            match rest:
                case "weight":
                    out[f"{at}.conv.weight"] = value[None]
                case "affine.weight" | "affine.bias":
                    out[f"{at}.conv.modulation.{parts[-1]}"] = value
                case "noise_strength":
                    out[f"{at}.noise.weight"] = value.reshape(1)
                case "noise_const":
                    out[f"noises.noise_{0 if level < 0 else 2 * level + 1 + second}"] = value[None, None]
                case "bias":
                    out[f"{at}.activate.bias"] = value
            if level >= 0 and second == 0:
                out[f"{at}.conv.blur.kernel"] = kernel
    return {k: v.detach().clone() for k, v in out.items()}


def rosinality_discriminator(state: dict[str, torch.Tensor], resolution: int) -> dict[str, torch.Tensor]:
    names = {"b4.conv.weight": "final_conv.0.weight", "b4.conv.bias": "final_conv.1.bias"}
    names |= {f"b4.{a}.{t}": f"final_linear.{i}.{t}" for i, a in enumerate(("fc", "out")) for t in ("weight", "bias")}
    names |= {f"b{resolution}.fromrgb.{t}": f"convs.0.{i}.{t}" for i, t in enumerate(("weight", "bias"))}
    out, at, res = {}, 1, resolution
    while res > 4:
        names |= {f"b{res}.conv0.{t}": f"convs.{at}.conv1.{i}.{t}" for i, t in enumerate(("weight", "bias"))}
        names |= {f"b{res}.conv1.{t}": f"convs.{at}.conv2.{i + 1}.{t}" for i, t in enumerate(("weight", "bias"))}
        names[f"b{res}.skip.weight"] = f"convs.{at}.skip.1.weight"
        out[f"convs.{at}.conv2.0.kernel"] = out[f"convs.{at}.skip.0.kernel"] = state[f"b{res}.resample_filter"].clone()
        at, res = at + 1, res // 2
    return out | {theirs: state[name].detach().clone() for name, theirs in names.items()}


def rosinality_file(path: Path, generator: Any, raw: Any = None, discriminator: Any = None, **options: Any) -> Path:
    """`options`: `legacy` container, `average` False leaves latent_avg out, further entries in `extra`."""
    data: dict[str, Any] = {"g_ema": rosinality_generator(generator.state_dict())}
    if raw is not None:
        data["g"] = rosinality_generator(raw.state_dict())
    if discriminator is not None:
        data["d"] = rosinality_discriminator(discriminator.state_dict(), discriminator.cfg.resolution)
    if options.get("average", True):
        data["latent_avg"] = generator.mapping.w_avg.clone()
    torch.save(data | options.get("extra", {}), path, _use_new_zipfile_serialization=not options.get("legacy", False))
    return path


# --- TensorFlow ----------------------------------------------------------------------------------------------------


def tensorflow_layout(name: str, value: np.ndarray) -> np.ndarray:
    """An official tensor as TensorFlow keeps it."""
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
    raw = raw or generator
    d = discriminator or ours.Discriminator(DiscriminatorConfig(8, channel_base=32, channel_max=4))
    nets = (
        tensorflow_generator(numpy_state(raw), tensorflow_arguments(raw.cfg)),
        tensorflow_discriminator(numpy_state(d), tensorflow_arguments(d.cfg), build_func_name="D_main"),
        tensorflow_generator(numpy_state(generator), tensorflow_arguments(generator.cfg) | changes.get("arguments", {})),
    )
    path.write_bytes(PickleWriter(3).dumps(changes.get("change", lambda x: x)(nets)))
    return path


# --- the paper -----------------------------------------------------------------------------------------------------


@pytest.fixture
def paper(reference: Any) -> type[Any]:
    """The float64 evaluation of tests/train/conftest.py, with the generator's other two architectures."""

    class Paper(reference):
        def synthesis(self, ws: np.ndarray, resolution: int, noise: bool = True) -> np.ndarray:
            if "synthesis.b4.torgb.weight" in self.p and resolution > 4:
                return super().synthesis(ws, resolution, noise)
            x, i = np.repeat(self.p["synthesis.b4.const"][None], len(ws), 0), 0
            for res in [2**k for k in range(2, int(math.log2(resolution)) + 1)]:
                before, block = x, f"synthesis.b{res}"
                if res > 4:
                    x, i = self.layer(f"{block}.conv0", x, ws[:, i], True, noise), i + 1
                x, i = self.layer(f"{block}.conv1", x, ws[:, i], False, noise), i + 1
                if f"{block}.skip.weight" in self.p:
                    weight = self.p[f"{block}.skip.weight"][:, :, 0, 0]
                    mixed = np.einsum("oi,nihw->nohw", weight / math.sqrt(weight.shape[1]), before)
                    x = (x + doubled(mixed)) / math.sqrt(2)
            weight, style = self.p[f"{block}.torgb.weight"], self.linear(f"{block}.torgb.affine", ws[:, i])
            y = np.einsum("oi,ni,nihw->nohw", weight[:, :, 0, 0] / math.sqrt(weight.shape[1]), style, x)
            return y + self.p[f"{block}.torgb.bias"][:, None, None]

    return Paper


def doubled(image: np.ndarray) -> np.ndarray:
    """2x up: zeros inserted, filtered with outer([1, 3, 3, 1]) / 16."""
    n, c, h, w = image.shape
    x = np.zeros((n, c, 2 * h + 3, 2 * w + 3))
    x[:, :, 2:-1:2, 2:-1:2] = image
    taps = np.array([1, 3, 3, 1]) / 4
    rows = sum(t * x[:, :, k : k + 2 * h] for k, t in enumerate(taps))
    return sum(t * rows[..., k : k + 2 * w] for k, t in enumerate(taps))


@pytest.fixture(scope="session")
def foreign() -> SimpleNamespace:
    """Everything above, for the tests."""
    return SimpleNamespace(**{k: v for k, v in globals().items() if not k.startswith("_")})


@pytest.fixture
def nets(randomize: Any) -> Any:
    """`nets(resolution=16, c_dim=2, d=...)`: a small generator, a raw one and a discriminator, nothing left at zero."""

    def make(d: Any = None, **changes: Any) -> tuple[Any, Any, Any]:
        small = {"channel_base": 64, "channel_max": 8, "mapping_layers": 2}
        cfg = GeneratorConfig(**{"resolution": 8, "z_dim": 5, "w_dim": 7, **small, **changes})
        shared = {"resolution": max(cfg.resolution, 8), "c_dim": cfg.c_dim, "img_channels": cfg.img_channels}
        shared |= {"channel_base": cfg.channel_base, "channel_max": cfg.channel_max, "mbstd_group_size": 2}
        d_cfg = DiscriminatorConfig(**{**shared, "mapping_layers": 2, **(d or {})})
        nets = (ours.Generator(cfg), ours.Generator(cfg), ours.Discriminator(d_cfg))
        return tuple(randomize(n).eval() for n in nets)  # type: ignore[return-value]

    return make
