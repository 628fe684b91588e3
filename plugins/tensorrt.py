"""Both operators as TensorRT plugins, through `tensorrt.plugin`, for TensorRT 10.15 and later (11.2 with NumPy 2.4).

`register()` declares `stylert::Upfirdn2d` and `stylert::ModulatedConv2d` with the inputs and attributes of our ONNX
nodes (`onnx_functions.py`). The weight of ModulatedConv2d may also be folded ahead, `[P, O, K, K, I]`
(`tensorrt_network.py`). The nodes carry `plugin_namespace`, by which the ONNX parser finds the plugins. A plugin
has two sides:

- Ahead of time (`aot_impl`): one Triton kernel, compiled to PTX for one architecture, with every attribute as a
  constant. Its arguments are the node's inputs, 32-bit sizes and the output. The finished engine needs neither Python
  nor a plugin library. Nothing can be computed before the kernel, so the kernel of a 2x up layer whose weight is not
  folded folds the FIR itself.
- Just in time (`impl`): the same kernel through Triton's launcher, while Python runs beside the engine. It needs torch.

If both sides exist, the user selects one: with `NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS`, or with `aot`
on the node.

Every input of a node is present. Zeros stand for an absent noise or bias, and ones for an absent demod. The weight of
ModulatedConv2d may be int8. Style and demod then carry its scales (`nodes.modulated_conv2d_node`).

The tests run this module on TensorRT 11's own bindings: signatures, shape expressions, launch parameters, assembled
PTX. No engine has been built with it. `tests/plugins/test_tensorrt.py` lists what is unproven.
"""

# TensorRT reads annotations as objects, so there is no `from __future__ import annotations` here.

import hashlib
import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stylert.plugins.onnx_functions import DOMAIN

#: The first release with working ahead-of-time plugins. Those of 10.14 are broken.
OLDEST_VERSION = (10, 15)

#: Before this release TensorRT converts an attribute of a node, an array of one number, with `int()` or `float()`. NumPy
#: refuses that from `FIRST_NUMPY_WITHOUT_CONVERSION` on.
FIRST_VERSION_FOR_ANY_NUMPY = (11, 2)
FIRST_NUMPY_WITHOUT_CONVERSION = (2, 4)

PLUGINS = (f"{DOMAIN}::Upfirdn2d", f"{DOMAIN}::ModulatedConv2d")

#: TensorRT's name of the layout NHWC for each type, and the channels of which it stores a multiple (`NvInferRuntime.h`).
#: If the channels are such a multiple, nothing is padded. `HWC` is for 32 bits alone.
CHANNELS_LAST = {"FP32": ("HWC", 1), "FP16": ("HWC8", 8), "INT8": ("HWC16", 16)}


#: The target of the ahead-of-time kernels that are compiled next. TensorRT keeps the first declaration of a plugin.
_target: dict[str, str | None] = {"architecture": None}


def register(architecture: str | None = None, lazy: bool = False) -> tuple[str, ...]:
    """Declare both plugins to TensorRT. A second call changes the architecture alone.

    Args:
        architecture: The target of the ahead-of-time kernels that are compiled from now on, such as "sm_90". None is the
            GPU of this machine.
        lazy: Declare them to the Python API only, and not to TensorRT's registry.

    Returns:
        The names of the plugins.

    Raises:
        ImportError: TensorRT or Triton is missing, broken or too old, or TensorRT is TensorRT for RTX, which has no
            plugins.
    """
    trt, trtp = load()
    _target["architecture"] = architecture
    if not hasattr(trtp.op, DOMAIN):
        _register_upfirdn2d(trt, trtp, lazy)
        _register_modulated_conv2d(trt, trtp, lazy)
    return PLUGINS


def kernels_digest() -> str:
    """Identifies the code of the ahead-of-time kernels: a hash of our sources and of Triton's version.

    Raises:
        ImportError: Triton is missing. The message is one line.
    """
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError("TensorRT plugins need Triton: pip install 'stylert[gpu]'") from error
    digest = hashlib.sha256(f"triton {triton}".encode())
    folder = Path(__file__).parent
    for source in sorted([*folder.glob("*.py"), *folder.glob("triton/*.py")]):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:12]


def load() -> tuple[Any, Any]:
    """The modules `tensorrt` and `tensorrt.plugin`.

    Raises:
        ImportError: The installation cannot take these plugins. The message is one line.
    """
    try:
        importlib.import_module("triton")
    except ImportError as error:
        raise ImportError(f"TensorRT plugins need Triton ({error}): pip install 'stylert[gpu]'") from error
    try:
        trt = importlib.import_module("tensorrt")
        version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    except Exception as error:  # A stub package, a missing library or a half-removed package each fail in their own way.
        raise ImportError(f"TensorRT does not load ({error}): pip install 'stylert[tensorrt]'") from error
    # TensorRT for RTX aborts the process when a plugin is registered. Its version numbers start at 1 again.
    if "rtx" in trt.__name__ or version < OLDEST_VERSION:
        raise ImportError(
            f"plugins need TensorRT {OLDEST_VERSION[0]}.{OLDEST_VERSION[1]} or later, not {trt.__name__} {trt.__version__}"
        )
    numpy = tuple(int(part) for part in np.__version__.split(".")[:2])
    if version < FIRST_VERSION_FOR_ANY_NUMPY and numpy >= FIRST_NUMPY_WITHOUT_CONVERSION:
        raise ImportError(
            f"plugins of TensorRT {trt.__version__} cannot read attributes with NumPy {np.__version__}: "
            "pip install 'numpy<2.4', or TensorRT 11.2 or later"
        )
    return trt, importlib.import_module("tensorrt.plugin")


# --- Upfirdn2d -------------------------------------------------------------------------------------------------------


def _register_upfirdn2d(trt: Any, trtp: Any, lazy: bool) -> None:
    from stylert.plugins.onnx_nodes import Upfirdn2dNode
    from stylert.plugins.shapes import Resampling
    from stylert.plugins.triton.node_launch import FIR_WARPS, run, upfirdn2d_node

    name = PLUGINS[0]
    Ints = npt.NDArray[np.int64]
    Launch = tuple[str, str, trtp.KernelLaunchParams, trtp.SymExprs]

    def resampling(x: Any, f: Any, **attributes: Any) -> Resampling:
        """The checked attributes of a node whose inputs have these shapes."""
        node = Upfirdn2dNode.of(attributes)
        node.check_shapes({"x": _known_sizes(x), "f": _known_sizes(f)})
        return node.resampling

    @trtp.register(name, lazy_register=lazy)
    def describe(
        x: trtp.TensorDesc, f: trtp.TensorDesc, up: Ints, down: Ints, padding: Ints, flip: int, gain: float, group: int
    ) -> trtp.TensorDesc:
        x_shape, f_shape = tuple(x.shape_expr), tuple(f.shape_expr)
        spec = resampling(x_shape, f_shape, up=up, down=down, padding=padding, flip=flip, gain=gain, group=group)
        y = x.like()
        y.shape_expr[2], y.shape_expr[3] = spec.output_expressions(x_shape[2:], f_shape)
        return y

    @trtp.autotune(name)
    def tune(
        x: trtp.TensorDesc, f: trtp.TensorDesc, group: int, outputs: tuple[trtp.TensorDesc]
    ) -> list[trtp.AutoTuneCombination]:
        image, taps = _type_name(trt, x.dtype), _type_name(trt, f.dtype)
        return [
            trtp.AutoTuneCombination(f"{image}, {taps}, {image}", f"{layout}, LINEAR, {layout}", list(FIR_WARPS))
            for layout in layouts(image, group)
        ]

    @trtp.impl(name)
    def just_in_time(
        x: trtp.Tensor, f: trtp.Tensor, up: Ints, down: Ints, padding: Ints, flip: int, gain: float, group: int,
        outputs: tuple[trtp.Tensor], stream: int, tactic: int,
    ) -> None:  # fmt: skip
        x_shape, f_shape = tuple(x.shape), tuple(f.shape)
        launch = upfirdn2d_node(
            x_shape, f_shape,
            resampling(x_shape, f_shape, up=up, down=down, padding=padding, flip=flip, gain=gain, group=group),
            nhwc=_is_hwc(trt, x), itemsize=trt.DataType(x.dtype).itemsize, num_warps=_of_tactic(FIR_WARPS, tactic),
        )  # fmt: skip
        with _on_stream(stream):
            run(launch, [as_torch(t) for t in (x, f)], as_torch(outputs[0]))

    @trtp.aot_impl(name)
    def ahead_of_time(
        x: trtp.TensorDesc, f: trtp.TensorDesc, up: Ints, down: Ints, padding: Ints, flip: int, gain: float, group: int,
        outputs: tuple[trtp.TensorDesc], tactic: int,
    ) -> Launch:  # fmt: skip
        x_shape, f_shape = tuple(x.shape_expr), tuple(f.shape_expr)
        launch = upfirdn2d_node(
            x_shape, f_shape,
            resampling(x_shape, f_shape, up=up, down=down, padding=padding, flip=flip, gain=gain, group=group),
            nhwc=_is_hwc(trt, x), itemsize=trt.DataType(x.dtype).itemsize, num_warps=_of_tactic(FIR_WARPS, tactic),
        )  # fmt: skip
        return _compiled(trt, trtp, launch, [x, f, outputs[0]])


# --- ModulatedConv2d -------------------------------------------------------------------------------------------------


def _register_modulated_conv2d(trt: Any, trtp: Any, lazy: bool) -> None:
    from stylert.plugins.onnx_nodes import ModulatedConv2dNode
    from stylert.plugins.triton.node_launch import conv_tiles, modulated_conv2d_node, run

    name = PLUGINS[1]
    Launch = tuple[str, str, trtp.KernelLaunchParams, trtp.SymExprs]

    @trtp.register(name, lazy_register=lazy)
    def describe(
        x: trtp.TensorDesc, weight: trtp.TensorDesc, style: trtp.TensorDesc, demod: trtp.TensorDesc, noise: trtp.TensorDesc,
        bias: trtp.TensorDesc, f: trtp.TensorDesc, up: int, alpha: float, gain: float, clamp: float, group: int,
    ) -> trtp.TensorDesc:  # fmt: skip
        inputs = {"x": x, "weight": weight, "style": style, "demod": demod, "noise": noise, "bias": bias, "f": f}
        shapes = {name: tuple(t.shape_expr) for name, t in inputs.items()}
        node = ModulatedConv2dNode.of({"up": up, "alpha": alpha, "gain": gain, "clamp": clamp, "group": group})
        known_sizes = {name: _known_sizes(shape) for name, shape in shapes.items()}
        node.check_shapes(known_sizes, folded=len(shapes["weight"]) == 5 or (up == 2 and weight.dtype == trt.int8))
        y = x.like()
        y.shape_expr[0], y.shape_expr[1] = shapes["style"][0], shapes["weight"][-4]
        y.shape_expr[2], y.shape_expr[3] = shapes["x"][2] * up, shapes["x"][3] * up
        return y

    @trtp.autotune(name)
    def tune(
        x: trtp.TensorDesc, weight: trtp.TensorDesc, style: trtp.TensorDesc, demod: trtp.TensorDesc, noise: trtp.TensorDesc,
        bias: trtp.TensorDesc, f: trtp.TensorDesc, up: int, outputs: tuple[trtp.TensorDesc],
    ) -> list[trtp.AutoTuneCombination]:  # fmt: skip
        int8 = weight.dtype == trt.int8
        if weight.dtype != x.dtype and not int8:
            raise ValueError(f"ModulatedConv2d: weight must be {x.dtype}, as x, or int8, not {weight.dtype}")
        image, kernel = _type_name(trt, x.dtype), "INT8" if int8 else _type_name(trt, weight.dtype)
        types = ", ".join([image, kernel, *(_type_name(trt, t.dtype) for t in (style, demod, noise, bias, f, x))])
        sizes = tuple(weight.shape)
        folded = len(sizes) == 5
        o, i = (sizes[1], sizes[4]) if folded else (sizes[0], sizes[1])
        # A folded weight is channels last by its shape.
        weight_layouts = ["LINEAR"] if folded else layouts(kernel, i)
        return [
            trtp.AutoTuneCombination(
                types, ", ".join([layout, weights, *["LINEAR"] * 5, layout]), list(tiles(x, weight, up, sizes))
            )
            for layout in layouts(image, i, o)
            for weights in weight_layouts
        ]

    def tiles(x: Any, weight: Any, up: int, weight_shape: Any) -> Any:
        return conv_tiles(up == 2 and len(weight_shape) == 4, 2 if weight.dtype == trt.int8 else trt.DataType(x.dtype).itemsize)

    def launch_of(x: Any, weight: Any, style: Any, noise: Any, shapes: list[Any], tactic: int, **attributes: Any) -> Any:
        return modulated_conv2d_node(
            *shapes, **attributes, nhwc=_is_hwc(trt, x), ohwi=_is_hwc(trt, weight),
            tile=_of_tactic(tiles(x, weight, attributes["up"], shapes[1]), tactic), int8=weight.dtype == trt.int8,
        )  # fmt: skip

    @trtp.impl(name)
    def just_in_time(
        x: trtp.Tensor, weight: trtp.Tensor, style: trtp.Tensor, demod: trtp.Tensor, noise: trtp.Tensor,
        bias: trtp.Tensor, f: trtp.Tensor, up: int, alpha: float, gain: float, clamp: float,
        outputs: tuple[trtp.Tensor], stream: int, tactic: int,
    ) -> None:  # fmt: skip
        shapes = [tuple(t.shape) for t in (x, weight, style, noise)]
        launch = launch_of(x, weight, style, noise, shapes, tactic, up=up, alpha=alpha, gain=gain, clamp=clamp)
        with _on_stream(stream):
            run(launch, [as_torch(t) for t in (x, weight, style, demod, noise, bias, f)], as_torch(outputs[0]))

    @trtp.aot_impl(name)
    def ahead_of_time(
        x: trtp.TensorDesc, weight: trtp.TensorDesc, style: trtp.TensorDesc, demod: trtp.TensorDesc, noise: trtp.TensorDesc,
        bias: trtp.TensorDesc, f: trtp.TensorDesc, up: int, alpha: float, gain: float, clamp: float, group: int,
        outputs: tuple[trtp.TensorDesc], tactic: int,
    ) -> Launch:  # fmt: skip
        shapes = [tuple(t.shape_expr) for t in (x, weight, style, noise)]
        launch = launch_of(x, weight, style, noise, shapes, tactic, up=up, alpha=alpha, gain=gain, clamp=clamp)
        return _compiled(trt, trtp, launch, [x, weight, style, demod, noise, bias, f, outputs[0]])


# --- for both --------------------------------------------------------------------------------------------------------


def _compiled(trt: Any, trtp: Any, launch: Any, tensors: list[Any]) -> Any:
    """The parts of a launch that an engine stores: kernel name, PTX, launch parameters and integer arguments."""
    from stylert.plugins.triton.compiler import compile_kernel, without_hidden_pointers

    pointer_names = [name for name in launch.kernel.arg_names if name.endswith("_ptr")]
    pointers = {name: _kernel_dtype(trt, t.dtype) for name, t in zip(pointer_names, tensors, strict=True)}
    compiled, arguments = compile_kernel(
        launch.kernel, pointers, launch.constants, launch.aligned, _target["architecture"] or _this_gpu(),
        num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    parameters = trtp.KernelLaunchParams(
        grid_x=launch.programs, block_x=compiled.metadata.num_warps * 32, shared_mem=compiled.metadata.shared
    )
    sizes = trtp.SymIntExprs(len(launch.integers))
    for i, value in enumerate(launch.integers.values()):
        sizes[i] = trtp.SymInt32(value)
    return compiled.metadata.name, without_hidden_pointers(compiled.asm["ptx"], len(arguments)), parameters, sizes


def _known_sizes(shape: Any) -> list[int | None]:
    """The sizes of a shape. None stands for a size that only the running engine knows.

    TensorRT first asks for the type of the output alone. The shapes of that call are fake, and no size is known.
    """
    from stylert.plugins.triton.node_launch import constant_value

    return [None if getattr(size, "is_fake", False) else constant_value(size) for size in shape]


def as_torch(tensor: Any) -> Any:
    """A PyTorch tensor over the memory of a TensorRT tensor."""
    import torch

    return torch.as_tensor(tensor, device="cuda")


def _on_stream(stream: int) -> Any:
    """Makes TensorRT's stream PyTorch's current stream, on which Triton launches."""
    import torch

    return torch.cuda.stream(torch.cuda.ExternalStream(stream))


def _this_gpu() -> str:
    import triton

    return f"sm_{triton.runtime.driver.active.get_current_target().arch}"


def _type_name(trt: Any, dtype: Any) -> str:
    """TensorRT's name of a dtype in a type combination."""
    names = {trt.DataType.FLOAT: "FP32", trt.DataType.HALF: "FP16"}
    if dtype not in names:
        raise ValueError(f"the plugins of stylert take float32 and float16, not {dtype}")
    return names[dtype]


def _kernel_dtype(trt: Any, dtype: Any) -> str:
    """The dtype name that `compile_kernel` takes."""
    if dtype == trt.int8:
        return "int8"
    return {"FP32": "float32", "FP16": "float16"}[_type_name(trt, dtype)]


def layouts(type_name: str, *channels: int) -> list[str]:
    """The memory layouts of a tensor that the kernels read: NCHW, and NHWC if it needs no padding.

    Args:
        type_name: A key of `CHANNELS_LAST`.
        channels: Channels of every tensor that has the layout.
    """
    name, multiple = CHANNELS_LAST[type_name]
    return ["LINEAR", name] if all(count % multiple == 0 for count in channels) else ["LINEAR"]


def _is_hwc(trt: Any, tensor: Any) -> bool:
    return tensor.format in [getattr(trt.TensorFormat, name) for name, _ in CHANNELS_LAST.values()]


def _of_tactic(values: dict[int, Any], tactic: int) -> Any:
    """The value of a tactic number. TensorRT passes 0 if no tactic was chosen; the first then serves."""
    return values[tactic or min(values)]
