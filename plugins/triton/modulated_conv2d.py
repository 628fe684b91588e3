"""ModulatedConv2d in Triton: one synthesis layer as one kernel, which is an implicit matrix product.

    y[n, p, o] = clamp(gain * lrelu(d[n, o] * sum_{t, i} w[t, o, i] * (s[n, i] * x[n, p + t, i]) + noise[n, p] + b[o]))

Rows of the product are output pixels, and columns are output channels. The sum goes over taps and input channels. The
style multiplies the input tile on its way to the tensor cores. Demodulation, noise, bias, leaky ReLU, gain and clamp
are applied to the accumulator before its only store. For 2x up the FIR is folded into four phase kernels
(`fir_folding.fold`). Each phase is this product over the input's pixels, and is stored to every second pixel of the
output.

Activations are NHWC and weights `[phase, O, k, k, I]`. So both tiles are read along their contiguous channels, as the
tensor cores of every generation take them. With flags, the kernel also reads NCHW activations and `[O, I, k, k]`
weights, and folds the FIR into the weights itself. A TensorRT plugin needs this: it is one kernel on the operands of an
ONNX node (`node_launch.py`). The kernels are in `conv_kernels.py`; this module launches them.
"""

from __future__ import annotations

import functools
from typing import Any

import triton

from stylert.plugins.shapes import MAX_OFFSET, Epilogue, modulated_conv2d_shape
from stylert.plugins.triton.bias_act import check_kernel_dtype
from stylert.plugins.triton.conv_kernels import modulated_conv2d_kernel, rgb_kernel, split_kernel, sum_kernel
from stylert.plugins.triton.operand_checks import check_contiguous, check_shapes
from stylert.plugins.triton.tiles import FP8_ARCHITECTURE, HOPPER, ConvProblem, Tile, choose_tile
from stylert.plugins.triton.to_rgb import Rgb, check_rgb

#: How tiles are multiplied:
#: - "tf32": float32 as one tf32 product.
#: - "tf32x3": float32 as three tf32 products. Their sum is nearly float32.
#: - "ieee": in float32, for Triton's interpreter, which cannot multiply bfloat16 or round to FP8.
#:
#: float16 and bfloat16 products are exact in all three. int8 weights are multiplied in 8 bits in all three.
PRECISIONS = ("ieee", "tf32", "tf32x3")

#: Dtype of 8-bit weights to its name in tables. Style and demod carry the scales of these weights.
EIGHT_BITS = {"torch.int8": "int8", "torch.float8_e4m3fn": "fp8"}

#: The fewest input channels of one step of an 8-bit product.
MIN_8_BIT_BLOCK_K = 32


def modulated_conv2d_into(
    y: Any | None,
    x: Any,
    weight: Any,
    style: Any | None,
    demod: Any | None = None,
    noise: Any | None = None,
    bias: Any | None = None,
    *,
    epilogue: Epilogue,
    tile: Tile | None = None,
    precision: str = "tf32x3",
    workspace: Any | None = None,
    rgb: Rgb | None = None,
) -> None:
    """Write one synthesis layer into `y`. It is accumulated in float32.

    An 8-bit weight changes the sum. For int8 it is `sum w * round(clip(s * x, -127, 127))` in int32, halves to even.
    For float8_e4m3fn it is `sum w * e4m3(clip(s * x, -448, 448))`, and the GPU needs compute capability 8.9. `style`
    must be divided by the activations' scale, and `demod` multiplied by it and by the weights' scale
    (`eight_bit.layer_operands`).

    Args:
        y: Output, `[N, H * up, W * up, O]`, contiguous, in the dtype of `x`. None writes no activations, and is allowed
            only with `rgb`.
        x: `[N, H, W, I]`, contiguous, float16, bfloat16 or float32.
        weight: `[P, O, k, k, I]`, contiguous, k odd, in the dtype of `x` or in 8 bits. P is 1, or 4 for 2x up
            (`fir_folding.fold`).
        style: `[N, I]`, contiguous. None if `x` is modulated already, which 8-bit weights do not allow.
        demod: `[N, O]`, contiguous, or None.
        noise: `[N, H * up, W * up]`, scaled, or None. Any strides; 0 broadcasts.
        bias: `[O]`, contiguous, or None.
        epilogue: Slope, gain and clamp.
        tile: Shape of one program's work. None chooses one.
        precision: One of `PRECISIONS`.
        workspace: Contiguous, at least `workspace_elements` elements, int32 for int8 weights and else float32. None if
            the tile does not split the sum.
        rgb: Also makes an image of the result. The tile must then have all output channels and no split sum, and P must
            be 1.

    Raises:
        ValueError: Operands that do not fit together, or that the kernel cannot serve.
    """
    _check_operands(x, weight, style, demod, bias, precision)
    if rgb is not None:
        if len(weight) != 1:
            raise ValueError("modulated_conv2d: rgb is for layers without 2x up")
        check_rgb(rgb, len(x), x.shape[1], x.shape[2], weight.shape[1])
    elif y is None:
        raise ValueError("modulated_conv2d: nothing to write: y may be absent only with rgb")
    _check_memory(y, x, weight, style, demod, noise, bias)
    n, h, w, i = x.shape
    phases, o, k = weight.shape[:3]
    if n * h * w * o == 0:
        return
    up = 2 if phases == 4 else 1
    kind = EIGHT_BITS.get(str(weight.dtype))
    tile = tile or choose_tile(conv_problem(x, weight), allow_splits=workspace is not None, min_channels=o if rgb else 0)
    if kind and tile.k < MIN_8_BIT_BLOCK_K:
        raise ValueError(f"modulated_conv2d: 8-bit products take at least {MIN_8_BIT_BLOCK_K} channels per step, not {tile.k}")

    # A sample that fills a tile has one style row for it. Small samples share tiles, and the kernel reads a style per
    # pixel.
    per_sample = h * w >= tile.m or n == 1
    unused = x  # A pointer that the kernel does not read, in place of an absent operand.
    small_operands = [unused if t is None else t for t in (style, demod, noise, bias)]
    noise_strides = (0, 0, 0) if noise is None else noise.stride()
    gemm_constants = {
        "HAS_STYLE": style is not None,
        "KSIZE": k,
        "PER_SAMPLE": per_sample,
        "PRECISION": _product_form(kind, precision, _architecture(x)),
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "BLOCK_K": tile.k,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }
    epilogue_constants = {
        "HAS_DEMOD": demod is not None,
        "HAS_NOISE": noise is not None,
        "HAS_BIAS": bias is not None,
        "SLOPE": epilogue.slope,
        "GAIN": epilogue.gain,
        "CLAMP": epilogue.clamp,
    }
    count = program_count(n, h * w, o, phases, tile, per_sample)

    if rgb is not None:
        if tile.n < o or tile.splits > 1:
            raise ValueError(f"modulated_conv2d: rgb needs a tile of all {o} channels and a sum that is not split, not {tile}")
        has_skip = rgb.skip is not None
        rgb_kernel[(count,)](
            x, weight, *small_operands, rgb.weight, rgb.style, unused if rgb.bias is None else rgb.bias,
            rgb.skip if has_skip else unused, rgb.f if has_skip else unused,
            n, h, w, i, o, h * w * i, *noise_strides, rgb.image, unused if y is None else y,
            RGB=rgb.image.shape[3], RGB_BIAS=rgb.bias is not None, RGB_CLAMP=rgb.clamp, HAS_SKIP=has_skip, HAS_Y=y is not None,
            **gemm_constants, **epilogue_constants,
        )  # fmt: skip
    elif tile.splits > 1:
        _check_workspace(workspace, workspace_elements(n, h * w, o, phases, tile.splits), kind)
        split_kernel[(count, tile.splits)](
            x, weight, small_operands[0], n, h, w, i, o, h * w * i, workspace,
            UP=up, SPLITS=tile.splits, GROUP=tile.group, **gemm_constants,
        )  # fmt: skip
        rows, columns = 16, min(64, max(16, triton.next_power_of_2(o)))
        sum_kernel[(triton.cdiv(n * h * w, rows) * phases * triton.cdiv(o, columns),)](
            workspace, *small_operands[1:], n, h, w, o, *noise_strides, y,
            UP=up, SPLITS=tile.splits, **epilogue_constants, BLOCK_M=rows, BLOCK_N=columns, num_warps=4,
        )  # fmt: skip
    else:
        modulated_conv2d_kernel[(count,)](
            x, weight, *small_operands, unused, n, h, w, i, o, h * w * i, *noise_strides, y,
            NHWC=True, OHWI=True, FOLD=0, TAPS=0, SHIFT=0, UP=up, GROUP=tile.group, **gemm_constants, **epilogue_constants,
        )  # fmt: skip


def _product_form(kind: str | None, precision: str, architecture: int | None) -> str:
    """The kernels' name of a way to multiply, of 8-bit weights (`kind`) or of others (`precision`)."""
    if kind != "fp8":
        return kind or precision
    if precision == "ieee":
        return "fp8_ieee"
    return "fp8_hopper" if architecture == HOPPER else "fp8"


def conv_problem(x: Any, weight: Any) -> ConvProblem:
    """The problem that a tile is chosen for, of x `[N, H, W, I]` and weight `[P, O, k, k, I]`."""
    phases, o, k = weight.shape[:3]
    dtype = EIGHT_BITS.get(str(weight.dtype), str(weight.dtype).removeprefix("torch."))
    return ConvProblem(dtype, x.shape[0], x.shape[1] * x.shape[2], x.shape[3], o, k, phases, _architecture(x))


def program_count(n: Any, pixels: Any, o: int, phases: int, tile: Tile, per_sample: bool) -> Any:
    """Number of programs for `n` samples of `pixels` input pixels. Sizes may be ints or symbolic."""
    blocks_m = n * triton.cdiv(pixels, tile.m) if per_sample else triton.cdiv(n * pixels, tile.m)
    return blocks_m * (phases * triton.cdiv(o, tile.n))


def workspace_elements(n: int, pixels: int, o: int, phases: int, splits: int) -> int:
    """Elements of the workspace of a sum in `splits` parts. A sum that is not split needs none."""
    return splits * phases * n * pixels * o if splits > 1 else 0


def _check_operands(x: Any, weight: Any, style: Any, demod: Any, bias: Any, precision: str) -> None:
    """Refuse shapes and dtypes that are no layer."""
    check_kernel_dtype(x, "modulated_conv2d: x")
    if len(x.shape) != 4 or len(weight.shape) != 5 or weight.shape[0] not in (1, 4):
        raise ValueError(
            f"modulated_conv2d: x is [N, H, W, I] and weight [1 or 4, O, k, k, I], not {list(x.shape)} and {list(weight.shape)}"
        )
    n, h, w, i = x.shape
    o, k, k2, weight_i = weight.shape[1:]
    # Each phase is a convolution at the resolution of the input.
    style_shape = (n, i) if style is None else style.shape
    demod_shape, bias_shape = (None if t is None else t.shape for t in (demod, bias))
    modulated_conv2d_shape((n, i, h, w), (o, weight_i, k, k2), style_shape, demod_shape, None, bias_shape, None, up=1)

    kind = EIGHT_BITS.get(str(weight.dtype))
    if weight.dtype != x.dtype and not kind:
        raise ValueError(f"modulated_conv2d: weight is {weight.dtype}, not {x.dtype} or 8 bits wide")
    if kind and (style is None or demod is None):
        raise ValueError(f"modulated_conv2d: {kind} weights need style and demod, which carry the scales")
    architecture = _architecture(x)
    if kind == "fp8" and architecture is not None and architecture < FP8_ARCHITECTURE:
        raise ValueError(
            f"modulated_conv2d: fp8 weights need compute capability 8.9 or later, and this GPU is sm_{architecture}"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"modulated_conv2d: precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")


def _check_memory(y: Any, x: Any, weight: Any, style: Any, demod: Any, noise: Any, bias: Any) -> None:
    """Refuse wrong sizes of maps, dtypes that the kernel does not read, gaps in memory, and too large operands."""
    n, h, w, i = x.shape
    phases, o = weight.shape[:2]
    up = 2 if phases == 4 else 1
    if y is not None and y.dtype != x.dtype:
        raise ValueError(f"modulated_conv2d: output is {y.dtype}, not {x.dtype}")
    check_shapes("modulated_conv2d", {"y": y, "noise": noise}, {"y": (n, h * up, w * up, o), "noise": (n, h * up, w * up)})
    for name, t in {"style": style, "demod": demod, "noise": noise, "bias": bias}.items():
        if t is not None:
            check_kernel_dtype(t, f"modulated_conv2d: {name}")
    operands = {"y": y, "x": x, "weight": weight, "style": style, "demod": demod, "bias": bias}
    check_contiguous("modulated_conv2d", operands)
    if h * w * max(i, o * up * up) > MAX_OFFSET or weight.numel() > MAX_OFFSET:
        raise ValueError(f"modulated_conv2d: a sample of {[h, w, i]} or the weight is too large for 32-bit offsets")


def _check_workspace(workspace: Any, elements: int, kind: str | None) -> None:
    dtype = "torch.int32" if kind == "int8" else "torch.float32"
    if workspace is None or workspace.numel() < elements or str(workspace.dtype) != dtype or not workspace.is_contiguous():
        raise ValueError(f"modulated_conv2d: a split sum needs a contiguous workspace of {elements} {dtype}")


def _architecture(x: Any) -> int | None:
    """Compute capability of the GPU that holds `x`, such as 90. None on a CPU."""
    return _capability(x.device.index) if x.device.type == "cuda" else None


@functools.cache
def _capability(index: int) -> int:
    """Compute capability of the current GPU, which has number `index`. Cached, because every launch asks for it."""
    return int(triton.runtime.driver.active.get_current_target().arch)
