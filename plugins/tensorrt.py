"""Both operators as TensorRT plugins, through `tensorrt.plugin`: for TensorRT from 10.15 and 11.

`register()` declares `stylert::Upfirdn2d` and `stylert::ModulatedConv2d` with the inputs and attributes of our ONNX nodes
(`onnx_functions`), which carry `plugin_namespace` and so find them. A plugin has two sides:

- ahead of time (`aot_impl`): one Triton kernel, compiled to PTX for one architecture with every attribute baked in. Its
  arguments are the node's inputs, 32-bit sizes and the output, and the finished engine needs neither Python nor a library.
  Nothing can be prepared for it, so 2x up layers fold the FIR into the weights in the kernel.
- just in time (`impl`): the same kernel through Triton's launcher, while Python runs beside the engine. Needs torch.

A weight of ModulatedConv2d may be int8, with its scales in style and demod (`nodes.modulated_conv2d_node`).

Where both exist TensorRT asks which is wanted: `NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS`, or `aot` on
the node. Every input of a node is there: noise of zeros, demod of ones and bias of zeros stand for an absent one.

This has run against TensorRT 11's own bindings (signatures, shape expressions, launch parameters, assembled PTX), and
never in an engine: `tests/plugins/test_tensorrt.py` names what is unproven.
"""

# TensorRT reads annotations as objects: no `from __future__ import annotations` here.

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from stylert.plugins.onnx_functions import DOMAIN

#: The first release in which ahead-of-time plugins work: 10.14 has them, broken.
OLDEST = (10, 15)

PLUGINS = (f"{DOMAIN}::Upfirdn2d", f"{DOMAIN}::ModulatedConv2d")

#: How TensorRT may lay an image or a weight out in memory: columns fastest, or channels fastest and without padding.
LAYOUTS = ("LINEAR", "HWC")


def register(architecture: str | None = None, lazy: bool = False) -> tuple[str, ...]:
    """Declare both plugins to TensorRT, once per process, and return their names.

    Args:
        architecture: what ahead-of-time kernels are compiled for, such as "sm_90"; None is the GPU of this machine.
        lazy: declare them to the Python API only, not to TensorRT's registry.

    Raises:
        ImportError: TensorRT or Triton is missing, broken, too old, or TensorRT for RTX, which has no plugins.
    """
    trt, trtp = load()
    if hasattr(trtp.op, DOMAIN):
        return PLUGINS
    _register_upfirdn2d(trt, trtp, architecture, lazy)
    _register_modulated_conv2d(trt, trtp, architecture, lazy)
    return PLUGINS


def load() -> tuple[Any, Any]:
    """`tensorrt` and `tensorrt.plugin`, if they can take these plugins.

    Raises:
        ImportError: one line that says what is wrong with the installation.
    """
    try:
        importlib.import_module("triton")
    except ImportError as error:
        raise ImportError(f"TensorRT plugins need Triton ({error}): pip install 'stylert[gpu]'") from error
    try:
        trt = importlib.import_module("tensorrt")
        version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    except Exception as error:  # a stub that cannot download, a missing library, a half-removed package
        raise ImportError(f"TensorRT does not load ({error}): pip install 'stylert[tensorrt]'") from error
    # A plugin that is registered in TensorRT for RTX, whose versions start anew at 1, aborts the process.
    if "rtx" in trt.__name__ or version < OLDEST:
        raise ImportError(f"plugins need TensorRT {OLDEST[0]}.{OLDEST[1]} or later, not {trt.__name__} {trt.__version__}")
    return trt, importlib.import_module("tensorrt.plugin")


# --- Upfirdn2d -------------------------------------------------------------------------------------------------------


def _register_upfirdn2d(trt: Any, trtp: Any, architecture: str | None, lazy: bool) -> None:
    from stylert.plugins.shapes import Resampling
    from stylert.plugins.triton.nodes import FIR_WARPS, run, upfirdn2d_node

    name = PLUGINS[0]
    Ints = npt.NDArray[np.int64]
    Launch = tuple[str, str, trtp.KernelLaunchParams, trtp.SymExprs]

    def resampling(up: Any, down: Any, padding: Any, flip: int, gain: float) -> Resampling:
        up, down, padding = ([int(v) for v in values] for values in (up, down, padding))
        return Resampling.of(up, down, padding, bool(flip), gain)

    @trtp.register(name, lazy_register=lazy)
    def describe(
        x: trtp.TensorDesc, f: trtp.TensorDesc, up: Ints, down: Ints, padding: Ints, flip: int, gain: float, group: int
    ) -> trtp.TensorDesc:
        if len(x.shape_expr) != 4 or len(f.shape_expr) != 2:
            raise ValueError(f"Upfirdn2d: x and f have 4 and 2 dimensions, not {len(x.shape_expr)} and {len(f.shape_expr)}")
        size = resampling(up, down, padding, flip, gain).output_expressions(tuple(x.shape_expr)[2:], tuple(f.shape_expr))
        y = x.like()
        y.shape_expr[2], y.shape_expr[3] = size
        return y

    @trtp.autotune(name)
    def tune(x: trtp.TensorDesc, f: trtp.TensorDesc, outputs: tuple[trtp.TensorDesc]) -> list[trtp.AutoTuneCombination]:
        types = f"{_type(trt, x.dtype)}, {_type(trt, f.dtype)}, {_type(trt, x.dtype)}"
        return [trtp.AutoTuneCombination(types, f"{layout}, LINEAR, {layout}", list(FIR_WARPS)) for layout in LAYOUTS]

    @trtp.impl(name)
    def just_in_time(
        x: trtp.Tensor, f: trtp.Tensor, up: Ints, down: Ints, padding: Ints, flip: int, gain: float,
        outputs: tuple[trtp.Tensor], stream: int, tactic: int,
    ) -> None:  # fmt: skip
        launch = upfirdn2d_node(
            tuple(x.shape), tuple(f.shape), resampling(up, down, padding, flip, gain),
            nhwc=_is_hwc(trt, x), itemsize=trt.DataType(x.dtype).itemsize, num_warps=_choice(FIR_WARPS, tactic),
        )  # fmt: skip
        with _on_stream(stream):
            run(launch, [as_torch(t) for t in (x, f)], as_torch(outputs[0]))

    @trtp.aot_impl(name)
    def ahead_of_time(
        x: trtp.TensorDesc, f: trtp.TensorDesc, up: Ints, down: Ints, padding: Ints, flip: int, gain: float, group: int,
        outputs: tuple[trtp.TensorDesc], tactic: int,
    ) -> Launch:  # fmt: skip
        launch = upfirdn2d_node(
            tuple(x.shape_expr), tuple(f.shape_expr), resampling(up, down, padding, flip, gain),
            nhwc=_is_hwc(trt, x), itemsize=trt.DataType(x.dtype).itemsize, num_warps=_choice(FIR_WARPS, tactic),
        )  # fmt: skip
        return _compiled(trt, trtp, launch, [x, f, outputs[0]], architecture)


# --- ModulatedConv2d -------------------------------------------------------------------------------------------------


def _register_modulated_conv2d(trt: Any, trtp: Any, architecture: str | None, lazy: bool) -> None:
    from stylert.plugins.triton.nodes import conv_tiles, modulated_conv2d_node, run

    name = PLUGINS[1]
    Launch = tuple[str, str, trtp.KernelLaunchParams, trtp.SymExprs]

    @trtp.register(name, lazy_register=lazy)
    def describe(
        x: trtp.TensorDesc, weight: trtp.TensorDesc, style: trtp.TensorDesc, demod: trtp.TensorDesc, noise: trtp.TensorDesc,
        bias: trtp.TensorDesc, f: trtp.TensorDesc, up: int, alpha: float, gain: float, clamp: float, group: int,
    ) -> trtp.TensorDesc:  # fmt: skip
        ranks = [len(t.shape_expr) for t in (x, weight, style, demod, noise, bias, f)]
        wanted = [4, 5 if weight.dtype == trt.int8 and up == 2 else 4, 2, 2, 4, 1, 2]
        if ranks != wanted:
            raise ValueError(f"ModulatedConv2d: its inputs have {wanted} dimensions, not {ranks}")
        y = x.like()
        y.shape_expr[0], y.shape_expr[1] = style.shape_expr[0], weight.shape_expr[wanted[1] - 4]
        y.shape_expr[2], y.shape_expr[3] = x.shape_expr[2] * up, x.shape_expr[3] * up
        return y

    @trtp.autotune(name)
    def tune(
        x: trtp.TensorDesc, weight: trtp.TensorDesc, style: trtp.TensorDesc, demod: trtp.TensorDesc, noise: trtp.TensorDesc,
        bias: trtp.TensorDesc, f: trtp.TensorDesc, up: int, outputs: tuple[trtp.TensorDesc],
    ) -> list[trtp.AutoTuneCombination]:  # fmt: skip
        int8 = weight.dtype == trt.int8
        if weight.dtype != x.dtype and not int8:
            raise ValueError(f"ModulatedConv2d: weight is {weight.dtype}, and must be as x, {x.dtype}, or int8")
        others = [_type(trt, t.dtype) for t in (style, demod, noise, bias, f, x)]
        types = ", ".join([_type(trt, x.dtype), "INT8" if int8 else _type(trt, weight.dtype), *others])
        # Phases that were folded ahead have five dimensions, and no layout but as they are written.
        weight_layouts = LAYOUTS[:1] if int8 and up == 2 else LAYOUTS
        return [
            trtp.AutoTuneCombination(types, ", ".join([layout, weights, *["LINEAR"] * 5, layout]), list(tiles(x, weight, up)))
            for layout in LAYOUTS
            for weights in weight_layouts
        ]

    def tiles(x: Any, weight: Any, up: int) -> Any:
        return conv_tiles(1, 2) if weight.dtype == trt.int8 else conv_tiles(up, trt.DataType(x.dtype).itemsize)

    def node(x: Any, weight: Any, style: Any, noise: Any, shapes: list[Any], tactic: int, **attributes: Any) -> Any:
        return modulated_conv2d_node(
            *shapes, **attributes, nhwc=_is_hwc(trt, x), ohwi=_is_hwc(trt, weight),
            tile=_choice(tiles(x, weight, attributes["up"]), tactic), int8=weight.dtype == trt.int8,
        )  # fmt: skip

    @trtp.impl(name)
    def just_in_time(
        x: trtp.Tensor, weight: trtp.Tensor, style: trtp.Tensor, demod: trtp.Tensor, noise: trtp.Tensor,
        bias: trtp.Tensor, f: trtp.Tensor, up: int, alpha: float, gain: float, clamp: float,
        outputs: tuple[trtp.Tensor], stream: int, tactic: int,
    ) -> None:  # fmt: skip
        shapes = [tuple(t.shape) for t in (x, weight, style, noise)]
        launch = node(x, weight, style, noise, shapes, tactic, up=up, alpha=alpha, gain=gain, clamp=clamp)
        with _on_stream(stream):
            run(launch, [as_torch(t) for t in (x, weight, style, demod, noise, bias, f)], as_torch(outputs[0]))

    @trtp.aot_impl(name)
    def ahead_of_time(
        x: trtp.TensorDesc, weight: trtp.TensorDesc, style: trtp.TensorDesc, demod: trtp.TensorDesc, noise: trtp.TensorDesc,
        bias: trtp.TensorDesc, f: trtp.TensorDesc, up: int, alpha: float, gain: float, clamp: float, group: int,
        outputs: tuple[trtp.TensorDesc], tactic: int,
    ) -> Launch:  # fmt: skip
        shapes = [tuple(t.shape_expr) for t in (x, weight, style, noise)]
        launch = node(x, weight, style, noise, shapes, tactic, up=up, alpha=alpha, gain=gain, clamp=clamp)
        return _compiled(trt, trtp, launch, [x, weight, style, demod, noise, bias, f, outputs[0]], architecture)


# --- both ------------------------------------------------------------------------------------------------------------


def _compiled(trt: Any, trtp: Any, launch: Any, tensors: list[Any], architecture: str | None) -> Any:
    """What TensorRT stores of a launch: kernel name, PTX, launch parameters and the sizes between inputs and output."""
    from stylert.plugins.aot import compile_kernel, without_hidden_pointers

    names = [name for name in launch.kernel.arg_names if name.endswith("_ptr")]
    dtypes = {"FP32": "float32", "FP16": "float16"}
    pointers = {
        name: "int8" if t.dtype == trt.int8 else dtypes[_type(trt, t.dtype)] for name, t in zip(names, tensors, strict=True)
    }
    compiled, arguments = compile_kernel(
        launch.kernel, pointers, launch.constants, launch.aligned, architecture or _this_gpu(),
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    parameters = trtp.KernelLaunchParams(
        grid_x=launch.programs, block_x=compiled.metadata.num_warps * 32, shared_mem=compiled.metadata.shared
    )
    sizes = trtp.SymIntExprs(len(launch.integers))
    for i, value in enumerate(launch.integers.values()):
        sizes[i] = trtp.SymInt32(value)
    return compiled.metadata.name, without_hidden_pointers(compiled.asm["ptx"], len(arguments)), parameters, sizes


def as_torch(tensor: Any) -> Any:
    """TensorRT's tensor as PyTorch's, over the same memory."""
    import torch

    return torch.as_tensor(tensor, device="cuda")


def _on_stream(stream: int) -> Any:
    """Triton launches on PyTorch's current stream, which becomes TensorRT's."""
    import torch

    return torch.cuda.stream(torch.cuda.ExternalStream(stream))


def _this_gpu() -> str:
    import triton

    return f"sm_{triton.runtime.driver.active.get_current_target().arch}"


def _type(trt: Any, dtype: Any) -> str:
    names = {trt.DataType.FLOAT: "FP32", trt.DataType.HALF: "FP16"}
    if dtype not in names:
        raise ValueError(f"the plugins of stylert take float32 and float16, not {dtype}")
    return names[dtype]


def _is_hwc(trt: Any, tensor: Any) -> bool:
    return tensor.format == trt.TensorFormat.HWC


def _choice(tactics: dict[int, Any], tactic: int) -> Any:
    """What a tactic number stands for; 0 is TensorRT's word for no choice."""
    return tactics[tactic or min(tactics)]
