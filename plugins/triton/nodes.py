"""The kernels as one ONNX node each: operands as the node carries them, nothing prepared ahead, no scratch memory.

This is the form of a TensorRT plugin. A `NodeLaunch` says everything about it but the pointers, so that the plugin's
ahead-of-time and just-in-time sides and the tests share one description. Sizes may be ints or TensorRT's symbolic
dimensions, which know `+`, `*`, `//` and `==`, `is_constant` and `constant_value()`. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stylert.plugins.shapes import MAX_OFFSET, Resampling, phase_geometry
from stylert.plugins.triton import upfirdn2d as fir
from stylert.plugins.triton.conv_programs import modulated_conv2d_kernel
from stylert.plugins.triton.modulated_conv2d import programs
from stylert.plugins.triton.tiles import Tile

#: Tactic number to how many threads of an Upfirdn2d program share its tile.
FIR_WARPS = {1: 4, 2: 8}


def conv_tiles(up: int, itemsize: int) -> dict[int, Tile]:
    """Tactic number to tile of ModulatedConv2d, for TensorRT to measure.

    All fit the 48 KiB of shared memory that a launch has without asking, and none spills registers where the channel counts
    are multiples of 16, as in every preset (`tests/plugins/test_tensorrt.py`); others are read one by one, and the largest
    tiles then spill some. Folding the FIR in the kernel takes registers, and its nine loads are not pipelined.
    """
    if up == 1 and itemsize == 2:
        tiles = [Tile(128, 128, 32, 8, 3), Tile(128, 64, 32, 8, 3), Tile(64, 64, 32, 4, 3), Tile(128, 32, 32, 4, 3)]
    elif up == 1:
        tiles = [Tile(64, 64, 16, 8, 2), Tile(64, 32, 32, 4, 2), Tile(32, 32, 32, 4, 2)]
    elif itemsize == 2:
        tiles = [Tile(128, 64, 32, 8, 1), Tile(64, 64, 32, 8, 1), Tile(64, 32, 32, 4, 1), Tile(32, 32, 32, 4, 1)]
    else:
        tiles = [Tile(64, 32, 16, 4, 1), Tile(32, 32, 32, 4, 1)]
    return dict(enumerate(tiles, 1))


@dataclass(frozen=True)
class NodeLaunch:
    """One kernel launch, less its pointers: all inputs of the node come first, then `integers`, then the output."""

    kernel: Any
    programs: Any  # grid on x; y and z are 1
    integers: dict[str, Any]  # by the kernel's names, in its order
    aligned: tuple[str, ...]  # the integers that are sure to be multiples of 16, which makes loads wide
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
    """One ModulatedConv2d node: x, weight, style, demod, noise, bias, f to y, in float16 or float32.

    An `int8` weight has its scales in style and demod (`eight_bit.layer_operands`). It cannot be folded here, where a sum of
    its integers with a FIR's fractions would have to be rounded anew: for `up` 2 it is `[4, O, I, K, K]`, what
    `eight_bit.quantize_weight` makes of `polyphase.fold`, in that order.

    Args:
        x, weight, style, noise: shapes, as in `onnx_functions.MODULATED_CONV2D`; that of weight is constant.
        up, alpha, gain, clamp: the attributes.
        nhwc: whether x and y lie channels-last in memory, else NCHW.
        ohwi: whether the weight lies `[O, k, k, I]` in memory, else as it is written.
        tile: shape of one program's work.

    Raises:
        ValueError: attributes or shapes that the node does not define.
    """
    folded = int8 and up == 2
    if len(x) != 4 or len(weight) != (5 if folded else 4) or len(style) != 2 or len(noise) != 4:
        ranks, wanted = [len(t) for t in (x, weight, style, noise)], f"4, {5 if folded else 4}, 2 and 4"
        raise ValueError(f"ModulatedConv2d: x, weight, style and noise have {wanted} dimensions, not {ranks}")
    *phases, o, i, k, k2 = (_constant(size, "the weight of ModulatedConv2d") for size in weight)
    if up not in (1, 2) or k != k2 or k % 2 == 0 or (up == 2 and k != 3) or phases not in ([], [4]):
        raise ValueError(f"ModulatedConv2d: up is 1, or 2 with a 3x3 kernel, not {up} with {k}x{k2}")
    if known(x[1]) not in (None, i) or known(style[1]) not in (None, i):
        raise ValueError(f"ModulatedConv2d: x, weight and style must agree on {i} input channels")
    if not (gain > 0 and clamp >= 0):
        raise ValueError(f"ModulatedConv2d: gain must be positive and clamp not negative, not {gain} and {clamp}")
    n, h, w = style[0], x[2], x[3]
    pixels = h * w
    if (known(pixels) or 0) * max(i, o * up * up) > MAX_OFFSET or up * up * o * i * k * k > MAX_OFFSET:
        raise ValueError("ModulatedConv2d: a sample or the weight is too large for 32-bit offsets")
    radius, shift = phase_geometry(k, 4) if up == 2 and not folded else (k // 2, 0)
    fold = k if up == 2 and not folded else 0
    # Samples that fill tiles of their own share one style row; small ones share tiles, and gather it per pixel.
    shared = (known(pixels) or tile.m) < tile.m
    integers = {
        "n": n, "h": h, "w": w, "i": i, "o": o,
        "x_n": _broadcast(x[0], pixels * i),
        "noise_n": _broadcast(noise[0], noise[2] * noise[3]),
        "noise_y": _broadcast(noise[2], noise[3]),
        "noise_x": _broadcast(noise[3], 1),
    }  # fmt: skip
    constants = {
        "HAS_STYLE": True, "HAS_DEMOD": True, "HAS_NOISE": True, "HAS_BIAS": True, "UP": up, "KSIZE": 2 * radius + 1,
        "SLOPE": alpha, "GAIN": gain, "CLAMP": clamp, "NHWC": nhwc, "OHWI": ohwi, "FOLD": fold,
        "TAPS": 4 if fold else 0, "SHIFT": shift, "PER_SAMPLE": not shared, "PRECISION": "int8" if int8 else "tf32x3",
        "GROUP": tile.group, "BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k,
    }  # fmt: skip
    count = programs(n, pixels, o, up * up, tile, not shared)
    # Where x is shared by the batch its step is 0, a multiple of 16 too.
    aligned = _aligned({"i": i, "o": o, "x_n": pixels * i})
    return NodeLaunch(modulated_conv2d_kernel, count, integers, aligned, constants, tile.num_warps, tile.num_stages)


def upfirdn2d_node(
    x: Sequence[Any], f: Sequence[Any], spec: Resampling, *, nhwc: bool, itemsize: int, num_warps: int
) -> NodeLaunch:
    """One Upfirdn2d node: x, f to y. Shapes as in `onnx_functions.UPFIRDN2D`; those of f and of the channels are constant.

    Raises:
        ValueError: shapes that the node does not define.
    """
    if len(x) != 4 or len(f) != 2:
        raise ValueError(f"Upfirdn2d: x and f have 4 and 2 dimensions, not {len(x)} and {len(f)}")
    taps = _constant(f[0], "the filter of Upfirdn2d"), _constant(f[1], "the filter of Upfirdn2d")
    n, c, h, w = x[0], _constant(x[1], "the channel count of Upfirdn2d"), x[2], x[3]
    out_h, out_w = spec.output_expressions((h, w), taps)
    quad = fir.fits_quad(spec, taps)
    block_p, block_c = fir.choose_tile(quad, c, nhwc and c > 1, itemsize)

    def strides(prefix: str, height: Any, width: Any) -> dict[str, Any]:
        c_step, h_step, w_step = (1, width * c, c) if nhwc else (height * width, width, 1)
        return {f"{prefix}_n": height * width * c, f"{prefix}_c": c_step, f"{prefix}_h": h_step, f"{prefix}_w": w_step}

    steps = strides("x", h, w) | strides("y", out_h, out_w)
    fast = ("x_c", "y_c") if nhwc else ("x_w", "y_w")
    integers = {"c": c, "h": h, "w": w, "out_h": out_h, "out_w": out_w}
    integers |= {name: step for name, step in steps.items() if name not in fast}
    if not quad:
        integers |= {"pad_y": spec.padding[0], "pad_x": spec.padding[2]}
    constants = (fir.quad_constants if quad else fir.gather_constants)(spec, taps)
    constants |= dict.fromkeys(fast, 1) | {"BLOCK_P": block_p, "BLOCK_C": block_c}
    count = fir.programs(n, c, out_h, out_w, quad, block_p, block_c)
    kernel = fir.quad_kernel if quad else fir.gather_kernel
    return NodeLaunch(kernel, count, integers, _aligned(integers), constants, num_warps, 3)


def run(launch: NodeLaunch, inputs: Sequence[Any], y: Any) -> None:
    """Launch on tensors: `inputs` in the node's order, `y` written whole. Only their memory counts, not their strides."""
    if known(launch.programs) == 0:
        return
    pointers = [name for name in launch.kernel.arg_names if name.endswith("_ptr")]
    arguments = dict(zip(pointers, (*inputs, y), strict=True)) | launch.integers | launch.constants
    launch.kernel[(launch.programs,)](**arguments, num_warps=launch.num_warps, num_stages=launch.num_stages)


def known(size: Any) -> int | None:
    """The value of a size, or None where it is only known when an engine runs."""
    if isinstance(size, int):
        return size
    return size.constant_value() if size.is_constant else None


def _aligned(sizes: dict[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, size in sizes.items() if (known(size) or 1) % 16 == 0)


def _constant(size: Any, what: str) -> int:
    value = known(size)
    if value is None:
        raise ValueError(f"{what} must have a fixed shape")
    return value


def _broadcast(size: Any, step: Any) -> Any:
    """The step in memory along an axis: none where its size is 1, even if that shows only when an engine runs."""
    value = known(size)
    if value is None:
        return ((size == 1) * -1 + 1) * step
    return 0 if value == 1 else step
