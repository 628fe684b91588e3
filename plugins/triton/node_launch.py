"""Kernel launches of the TensorRT plugins: one kernel for one ONNX node.

One kernel takes the operands as the node has them, and there is no scratch memory. The weight may be folded and laid
out ahead (`fir_folding.channels_last_phases`), as `tensorrt_network.py` does. Nothing else is prepared. A
`NodeLaunch` holds the launch without its pointers. The plugin's ahead-of-time side, its just-in-time side and the tests
share it.

Sizes may be ints or TensorRT's symbolic dimensions, which have `+`, `*`, `//`, `==`, `is_constant` and
`constant_value()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stylert.plugins.onnx_nodes import FIR_TAPS, check_kernel, check_phases, modulated_conv2d_ranks
from stylert.plugins.shapes import (
    MAX_OFFSET,
    MODULATED_CONV2D_RANKS,
    UPFIRDN2D_RANKS,
    Epilogue,
    Resampling,
    check_ranks,
    phase_geometry,
)
from stylert.plugins.triton import upfirdn2d as fir
from stylert.plugins.triton.conv_kernels import modulated_conv2d_kernel
from stylert.plugins.triton.modulated_conv2d import program_count
from stylert.plugins.triton.tiles import Tile

#: Tactic number to warps of an Upfirdn2d program.
FIR_WARPS = {1: 4, 2: 8}


def conv_tiles(folds_fir: bool, itemsize: int) -> dict[int, Tile]:
    """Tactic number to tile of ModulatedConv2d. TensorRT measures all of them.

    Every tile fits the 48 KiB of shared memory that a launch has by default. None spills registers if a sample fills a
    tile and the channels are multiples of 16, as in every preset. Other channel counts are read one channel at a time,
    and the largest tiles then spill some. Folding the FIR in the kernel takes more registers, so these tiles are
    smaller and do not load ahead.

    Args:
        folds_fir: Whether the kernel folds the FIR: a 2x up layer whose weight is not folded ahead.
        itemsize: Bytes of one element: 2 for float16 and int8 weights, 4 for float32.
    """
    if not folds_fir and itemsize == 2:
        tiles = [Tile(128, 128, 32, 8, 3), Tile(128, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3), Tile(128, 32, 32, 4, 3)]
    elif not folds_fir:
        tiles = [Tile(64, 64, 16, 8, 2), Tile(64, 32, 32, 4, 2), Tile(32, 32, 32, 4, 2)]
    elif itemsize == 2:
        tiles = [Tile(128, 64, 32, 8, 1), Tile(64, 64, 32, 8, 1), Tile(64, 32, 32, 4, 1), Tile(32, 32, 32, 4, 1)]
    else:
        tiles = [Tile(64, 32, 16, 4, 1), Tile(32, 32, 32, 4, 1)]
    return dict(enumerate(tiles, 1))


@dataclass(frozen=True)
class NodeLaunch:
    """One kernel launch without its pointers. The arguments are the node's inputs, `integers`, and the output.

    Attributes:
        kernel: The Triton function.
        programs: Grid on x. y and z are 1.
        integers: Names of the kernel's integer arguments to their values, in the kernel's order.
        aligned: The integers that are surely multiples of 16, so that loads are 16 bytes wide.
        constants: Compile-time arguments.
        num_warps: Warps per program.
        num_stages: Steps of a loop that are loaded ahead.
    """

    kernel: Any
    programs: Any
    integers: dict[str, Any]
    aligned: tuple[str, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


def modulated_conv2d_node(
    x: Sequence[Any],
    weight: Sequence[Any],
    style: Sequence[Any],
    noise: Sequence[Any],
    *,
    up: int,
    alpha: float,
    gain: float,
    clamp: float,
    nhwc: bool,
    ohwi: bool,
    tile: Tile,
    int8: bool = False,
) -> NodeLaunch:
    """The launch of one ModulatedConv2d node: x, weight, style, demod, noise, bias, f to y, in float16 or float32.

    A weight of five dimensions is folded ahead: `[P, O, K, K, I]` in memory as in its shape
    (`fir_folding.channels_last_phases`). Style and demod of an `int8` weight carry its scales
    (`eight_bit.layer_operands`). This kernel cannot fold the FIR into int8 numbers, because the sums would have to be
    rounded again. So for `up` 2 an int8 weight is folded ahead, before `eight_bit.quantize_weight`.

    Args:
        x: Shape of x, as in `onnx_functions.MODULATED_CONV2D`.
        weight: Shape of the weight, `[O, I, k, k]` or folded. It is constant.
        style: Shape of the style.
        noise: Shape of the noise.
        up: 1, or 2 with a 3x3 kernel.
        alpha: Slope of the leaky ReLU.
        gain: Positive.
        clamp: Bound of the absolute value. 0 is no bound.
        nhwc: Whether x and y are channels-last in memory, else NCHW.
        ohwi: Whether a weight `[O, I, k, k]` is `[O, k, k, I]` in memory, else as its shape.
        tile: Shape of one program's work.
        int8: Whether the weight is int8.

    Raises:
        ValueError: Attributes or shapes that the node does not define.
    """
    phases, o, i, k = _weight_sizes(weight, up, int8)
    check_ranks("ModulatedConv2d", {"x": x, "style": style, "noise": noise}, MODULATED_CONV2D_RANKS)
    if constant_value(x[1]) not in (None, i) or constant_value(style[1]) not in (None, i):
        raise ValueError(f"ModulatedConv2d: x, weight and style must agree on {i} input channels")
    try:
        epilogue = Epilogue(alpha, gain, clamp)
    except ValueError as error:
        raise ValueError(f"ModulatedConv2d: {error}") from None
    n, h, w = style[0], x[2], x[3]
    pixels = h * w
    known_pixels = constant_value(pixels)
    if (known_pixels or 0) * max(i, o * up * up) > MAX_OFFSET or up * up * o * i * k * k > MAX_OFFSET:
        raise ValueError("ModulatedConv2d: a sample or the weight is too large for 32-bit offsets")

    folds_fir = up * up != phases
    radius, shift = phase_geometry(k, FIR_TAPS) if folds_fir else (k // 2, 0)
    # A sample that fills a tile has one style row for it. Small samples share tiles, and the kernel reads a style per
    # pixel.
    per_sample = known_pixels is None or known_pixels >= tile.m
    integers = {
        "n": n, "h": h, "w": w, "i": i, "o": o,
        "x_n": _broadcast_stride(x[0], pixels * i),
        "noise_n": _broadcast_stride(noise[0], noise[2] * noise[3]),
        "noise_y": _broadcast_stride(noise[2], noise[3]),
        "noise_x": _broadcast_stride(noise[3], 1),
    }  # fmt: skip
    constants = {
        "HAS_STYLE": True, "HAS_DEMOD": True, "HAS_NOISE": True, "HAS_BIAS": True, "UP": up, "KSIZE": 2 * radius + 1,
        "SLOPE": epilogue.slope, "GAIN": epilogue.gain, "CLAMP": epilogue.clamp, "NHWC": nhwc, "OHWI": ohwi or len(weight) == 5,
        "FOLD": k if folds_fir else 0, "TAPS": FIR_TAPS if folds_fir else 0, "SHIFT": shift, "PER_SAMPLE": per_sample,
        "PRECISION": "int8" if int8 else "tf32x3", "GROUP": tile.group,
        "BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k,
    }  # fmt: skip
    programs = program_count(n, pixels, o, up * up, tile, per_sample)
    # If the batch shares x, its stride is 0, which is a multiple of 16 too.
    aligned = _multiples_of_16({"i": i, "o": o, "x_n": pixels * i})
    # A style per pixel is loaded ahead, too. With three stages it would not fit the shared memory of a launch.
    num_stages = tile.num_stages if per_sample else min(tile.num_stages, 2)
    return NodeLaunch(modulated_conv2d_kernel, programs, integers, aligned, constants, tile.num_warps, num_stages)


def _weight_sizes(weight: Sequence[Any], up: int, int8: bool) -> tuple[int, int, int, int]:
    """Phases, O, I and k of a weight that the node defines."""
    folded = len(weight) == 5
    check_ranks("ModulatedConv2d", {"weight": weight}, modulated_conv2d_ranks(folded or (up == 2 and int8)))
    sizes = [_constant_size(size, "the weight of ModulatedConv2d") for size in weight]
    if folded:
        phases, o, k, k2, i = sizes
        check_phases(up, phases)
    else:
        phases, (o, i, k, k2) = 1, sizes
    check_kernel(up, k, k2)
    return phases, o, i, k


def upfirdn2d_node(
    x: Sequence[Any], f: Sequence[Any], spec: Resampling, *, nhwc: bool, itemsize: int, num_warps: int
) -> NodeLaunch:
    """The launch of one Upfirdn2d node: x, f to y.

    Args:
        x: Shape of x, as in `onnx_functions.UPFIRDN2D`. The number of channels is constant.
        f: Shape of the filter. It is constant.
        spec: Factors, padding, flip and gain.
        nhwc: Whether x and y are channels-last in memory, else NCHW.
        itemsize: Bytes of one element of x.
        num_warps: Warps per program.

    Raises:
        ValueError: Shapes that the node does not define.
    """
    check_ranks("Upfirdn2d", {"x": x, "f": f}, UPFIRDN2D_RANKS)
    taps = _constant_size(f[0], "the filter of Upfirdn2d"), _constant_size(f[1], "the filter of Upfirdn2d")
    n, c, h, w = x[0], _constant_size(x[1], "the channel count of Upfirdn2d"), x[2], x[3]
    out_h, out_w = spec.output_expressions((h, w), taps)
    quad = fir.fits_quad(spec, taps)
    block_p, block_c = fir.choose_block(quad, c, nhwc and c > 1, itemsize)

    strides = _image_strides("x", c, h, w, nhwc) | _image_strides("y", c, out_h, out_w, nhwc)
    unit_strides = ("x_c", "y_c") if nhwc else ("x_w", "y_w")
    integers = {"c": c, "h": h, "w": w, "out_h": out_h, "out_w": out_w}
    integers |= {name: stride for name, stride in strides.items() if name not in unit_strides}
    if quad:
        kernel, constants = fir.quad_kernel, fir.quad_constants(spec, taps)
    else:
        kernel, constants = fir.gather_kernel, fir.gather_constants(spec, taps)
        integers |= {"pad_y": spec.padding[0], "pad_x": spec.padding[2]}
    constants |= dict.fromkeys(unit_strides, 1) | {"BLOCK_P": block_p, "BLOCK_C": block_c}
    programs = fir.program_count(n, c, out_h, out_w, quad, block_p, block_c)
    return NodeLaunch(kernel, programs, integers, _multiples_of_16(integers), constants, num_warps, 3)


def run(launch: NodeLaunch, inputs: Sequence[Any], y: Any) -> None:
    """Launch the kernel on tensors.

    Args:
        launch: From `modulated_conv2d_node` or `upfirdn2d_node`.
        inputs: All inputs, in the node's order. The kernel reads their memory and ignores their strides.
        y: Output. Every element is written.
    """
    if constant_value(launch.programs) == 0:
        return
    pointers = [name for name in launch.kernel.arg_names if name.endswith("_ptr")]
    arguments = dict(zip(pointers, (*inputs, y), strict=True)) | launch.integers | launch.constants
    launch.kernel[(launch.programs,)](**arguments, num_warps=launch.num_warps, num_stages=launch.num_stages)


def constant_value(size: Any) -> int | None:
    """The value of a size, or None if only the running engine knows it."""
    if isinstance(size, int):
        return size
    return size.constant_value() if size.is_constant else None


def _constant_size(size: Any, what: str) -> int:
    value = constant_value(size)
    if value is None:
        raise ValueError(f"{what} must have a fixed shape")
    return value


def _multiples_of_16(sizes: dict[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, size in sizes.items() if (constant_value(size) or 1) % 16 == 0)


def _image_strides(prefix: str, c: int, h: Any, w: Any, nhwc: bool) -> dict[str, Any]:
    """Strides of an image batch, in elements."""
    c_stride, h_stride, w_stride = (1, w * c, c) if nhwc else (h * w, w, 1)
    return {f"{prefix}_n": h * w * c, f"{prefix}_c": c_stride, f"{prefix}_h": h_stride, f"{prefix}_w": w_stride}


def _broadcast_stride(size: Any, stride: Any) -> Any:
    """The stride of an axis: 0 if its size is 1, else `stride`. The size may be known only at run time."""
    value = constant_value(size)
    if value is None:
        return ((size == 1) * -1 + 1) * stride
    return 0 if value == 1 else stride
