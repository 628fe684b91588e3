"""ModulatedConv2d in Triton: one synthesis layer as one implicit matrix product, everything else in its margins.

    y[n, p, o] = clamp(gain * lrelu(d[n, o] * sum_{t, i} w[t, o, i] * (s[n, i] * x[n, p + t, i]) + noise[n, p] + b[o]))

Rows of the product are output pixels, columns output channels, and it sums over taps and input channels. The style
multiplies the input tile on its way to the tensor cores; demodulation, noise, bias, leaky ReLU, gain and clamp are
applied to the accumulator before its only store. For 2x up the FIR is folded into four phase kernels (`polyphase.fold`):
each phase is this product over the input's pixels, stored straight to every second pixel of the output.

Activations are NHWC and weights `[phase, O, k, k, I]`, so both tiles are read along their contiguous channels, which is
also what every tensor-core generation takes. Flags let the kernel read NCHW activations and `[O, I, k, k]` weights too,
and fold the FIR into the weights on the fly: a TensorRT plugin is one kernel on the operands of an ONNX node, with nothing
prepared ahead (`nodes.py`). The programs themselves are in `conv_programs.py`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import triton

from stylert.plugins.shapes import MAX_OFFSET, Epilogue
from stylert.plugins.triton.conv_programs import modulated_conv2d_kernel, rgb_kernel, split_kernel, sum_kernel
from stylert.plugins.triton.tiles import FP8_ARCHITECTURE, ConvProblem, Tile, choose_tile
from stylert.plugins.triton.upfirdn2d import check_float

#: How float32 tiles are multiplied: exactly, as one tf32 product, or as three that together are nearly float32. Half
#: precision has exact products anyway; "ieee" widens its tiles first, for where there are no tensor cores (the
#: interpreter cannot multiply bfloat16, nor round to FP8). int8 weights are multiplied in 8 bits whatever is said here.
PRECISIONS = ("ieee", "tf32", "tf32x3")

#: Weight dtypes that are 8 bits wide, whose scales style and demod carry.
EIGHT_BITS = {"torch.int8": "int8", "torch.float8_e4m3fn": "fp8"}


@dataclass(frozen=True)
class Rgb:
    """torgb of a layer's result, and the image that it adds to, all of them contiguous; C is 1 to 4.

    image: `[N, H, W, C]`, float32 or uint8 (the official rounding of [-1, 1]); every element is written.
    weight: `[C, O]`; style: `[N, O]`, with torgb's gain; bias: `[C]` or None. Any float dtype but float64.
    skip: `[N, H / 2, W / 2, C]`, float32, the image of the block below, or None; f: `[4, 4]`, float32, its FIR.
    clamp: bounds what is added to the image, 0 is none.
    """

    image: Any
    weight: Any
    style: Any
    bias: Any | None = None
    skip: Any | None = None
    f: Any | None = None
    clamp: float = 0.0


def modulated_conv2d_into(
    y: Any | None,
    x: Any,
    weight: Any,
    style: Any | None,
    demod: Any | None = None,
    noise: Any | None = None,
    bias: Any | None = None,
    *,
    tail: Epilogue,
    tile: Tile | None = None,
    precision: str = "tf32x3",
    workspace: Any | None = None,
    rgb: Rgb | None = None,
) -> None:
    """Write one synthesis layer into `y`.

    Args:
        y: `[N, H * up, W * up, O]`, contiguous, the dtype of `x`; every element is written. None beside `rgb` keeps nothing.
        x: `[N, H, W, I]`, contiguous, float16, bfloat16 or float32; accumulated in float32.
        weight: `[P, O, k, k, I]`, contiguous, the dtype of `x` or 8 bits wide, k odd. P is 1, or 4 for 2x up (see
            `polyphase.fold`). For int8 the product is `sum w * round(clip(s * x, -127, 127))` in int32, halves to even; for
            float8_e4m3fn it is `sum w * e4m3(clip(s * x, -448, 448))`, and the GPU's compute capability at least 8.9. `style`
            must be divided by the activations' scale, and `demod` multiplied by it and the weights' (`eight_bit.layer_operands`).
        style: `[N, I]`, contiguous, or None where `x` is already modulated (which 8-bit weights do not allow).
        demod: `[N, O]`, contiguous, or None.
        noise: `[N, H * up, W * up]`, any strides (0 where it is broadcast), scaled, or None.
        bias: `[O]`, contiguous, or None.
        tail: slope, gain and clamp.
        tile: None chooses one.
        precision: see `PRECISIONS`.
        workspace: contiguous, of at least `workspace_elements` elements, int32 beside int8 weights and else float32; None
            where the tile does not split the sum.
        rgb: also makes an image of the result; the tile must then span all output channels, P be 1 and the sum whole.

    Raises:
        ValueError: operands that do not fit together or that the kernel cannot serve.
    """
    _check(y, x, weight, style, demod, noise, bias, precision, rgb)
    n, h, w, i = x.shape
    phases, o, k = weight.shape[:3]
    if n * h * w * o == 0:
        return
    kind = EIGHT_BITS.get(str(weight.dtype))
    up = 2 if phases == 4 else 1
    tile = tile or choose_tile(conv_problem(x, weight), whole=workspace is None, columns=o if rgb else 0)
    if kind and tile.k < 32:
        raise ValueError(f"modulated_conv2d: 8-bit products take at least 32 channels at a time, not {tile.k}")
    # Samples that fill tiles of their own share one style row; small ones share tiles, and gather it per pixel.
    per_sample = h * w >= tile.m or n == 1
    absent = x  # a pointer that is never read
    small = [absent if t is None else t for t in (style, demod, noise, bias)]
    noise_strides = (0, 0, 0) if noise is None else noise.stride()
    has = {"HAS_DEMOD": demod is not None, "HAS_NOISE": noise is not None, "HAS_BIAS": bias is not None}
    tails = {"SLOPE": tail.slope, "GAIN": tail.gain, "CLAMP": tail.clamp}
    if kind == "fp8" and precision == "ieee":
        kind = "fp8_ieee"
    common = {"HAS_STYLE": style is not None, "KSIZE": k, "PER_SAMPLE": per_sample, "PRECISION": kind or precision}
    blocks = {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k}
    launch = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
    grid = programs(n, h * w, o, phases, tile, per_sample)

    if rgb is not None:
        if tile.n < o or tile.splits > 1:
            raise ValueError(f"modulated_conv2d: a program that makes the image needs all {o} channels, whole, not {tile}")
        has_skip = rgb.skip is not None
        rgb_kernel[(grid,)](
            x, weight, *small, rgb.weight, rgb.style, rgb.bias if rgb.bias is not None else absent,
            rgb.skip if has_skip else absent, rgb.f if has_skip else absent,
            n, h, w, i, o, h * w * i, *noise_strides, rgb.image, absent if y is None else y,
            RGB=rgb.image.shape[3], RGB_BIAS=rgb.bias is not None, RGB_CLAMP=rgb.clamp, HAS_SKIP=has_skip, HAS_Y=y is not None,
            **common, **has, **tails, **blocks, **launch,
        )  # fmt: skip
    elif tile.splits > 1:
        _check_workspace(workspace, workspace_elements(n, h * w, o, phases, tile.splits), kind)
        split_kernel[(grid, tile.splits)](
            x, weight, small[0], n, h, w, i, o, h * w * i, workspace,
            UP=up, SPLITS=tile.splits, GROUP=tile.group, **common, **blocks, **launch,
        )  # fmt: skip
        rows, columns = 16, min(64, max(16, triton.next_power_of_2(o)))
        sum_kernel[(triton.cdiv(n * h * w, rows) * phases * triton.cdiv(o, columns),)](
            workspace, *small[1:], n, h, w, o, *noise_strides, y,
            UP=up, SPLITS=tile.splits, **has, **tails, BLOCK_M=rows, BLOCK_N=columns, num_warps=4,
        )  # fmt: skip
    else:
        modulated_conv2d_kernel[(grid,)](
            x, weight, *small, absent, n, h, w, i, o, h * w * i, *noise_strides, y,
            NHWC=True, OHWI=True, FOLD=0, TAPS=0, SHIFT=0, UP=up, GROUP=tile.group, **common, **has, **tails, **blocks, **launch,
        )  # fmt: skip


def conv_problem(x: Any, weight: Any) -> ConvProblem:
    """What a tile is chosen for: x `[N, H, W, I]` and weight `[P, O, k, k, I]` as `modulated_conv2d_into` takes them."""
    phases, o, k = weight.shape[:3]
    dtype = EIGHT_BITS.get(str(weight.dtype), str(weight.dtype).removeprefix("torch."))
    return ConvProblem(dtype, x.shape[0], x.shape[1] * x.shape[2], x.shape[3], o, k, phases, _architecture(x))


def programs(n: Any, pixels: Any, o: int, phases: int, tile: Tile, per_sample: bool) -> Any:
    """How many programs make `n` samples of `pixels` input pixels; works on ints and on symbolic sizes alike."""
    blocks_m = n * triton.cdiv(pixels, tile.m) if per_sample else triton.cdiv(n * pixels, tile.m)
    return blocks_m * (phases * triton.cdiv(o, tile.n))


def workspace_elements(n: int, pixels: int, o: int, phases: int, splits: int) -> int:
    """How many sums lie in memory between the programs that share a tile and the one that adds them; 0 for one program."""
    return splits * phases * n * pixels * o if splits > 1 else 0


def _check(y: Any, x: Any, weight: Any, style: Any, demod: Any, noise: Any, bias: Any, precision: str, rgb: Rgb | None) -> None:
    check_float(x, "modulated_conv2d: x")
    if len(x.shape) != 4 or len(weight.shape) != 5:
        raise ValueError(f"modulated_conv2d: x is [N, H, W, I] and weight [P, O, k, k, I], not {x.shape} and {weight.shape}")
    n, h, w, i = x.shape
    phases, o, k, k2, weight_i = weight.shape
    kind = EIGHT_BITS.get(str(weight.dtype))
    if kind and (style is None or demod is None):
        raise ValueError(f"modulated_conv2d: {kind} weights need style and demod, which carry the scales")
    if phases not in (1, 4) or k != k2 or k % 2 == 0 or weight_i != i or (weight.dtype != x.dtype and not kind):
        raise ValueError(
            f"modulated_conv2d: weight {weight.dtype} {list(weight.shape)} does not serve x {x.dtype} {list(x.shape)}"
        )
    architecture = _architecture(x)
    if kind == "fp8" and architecture is not None and architecture < FP8_ARCHITECTURE:
        raise ValueError(
            f"modulated_conv2d: fp8 weights need compute capability 8.9 or later, and this GPU is sm_{architecture}"
        )
    up = 2 if phases == 4 else 1
    if y is None and rgb is None:
        raise ValueError("modulated_conv2d: nothing to write: y may only be absent beside rgb")
    wanted = {"y": (n, h * up, w * up, o), "style": (n, i), "demod": (n, o), "noise": (n, h * up, w * up), "bias": (o,)}
    given = {"y": y, "style": style, "demod": demod, "noise": noise, "bias": bias}
    if rgb is not None:
        if phases != 1 or len(rgb.image.shape) != 4 or not 1 <= rgb.image.shape[3] <= 4 or not rgb.clamp >= 0:
            raise ValueError("modulated_conv2d: rgb is for layers without 2x up, images [N, H, W, 1 to 4], clamp not negative")
        if (rgb.skip is None) != (rgb.f is None) or (rgb.skip is not None and (h % 2 or w % 2)):
            raise ValueError("modulated_conv2d: rgb takes a skip with its filter, and an even height and width")
        c = rgb.image.shape[3]
        wanted |= {"image": (n, h, w, c), "rgb weight": (c, o), "rgb style": (n, o), "rgb bias": (c,)}
        wanted |= {"skip": (n, h // 2, w // 2, c), "f": (4, 4)}
        given |= {"rgb weight": rgb.weight, "rgb style": rgb.style, "rgb bias": rgb.bias, "skip": rgb.skip, "f": rgb.f}
        exact = {"image": ("torch.float32", "torch.uint8"), "skip": ("torch.float32",), "f": ("torch.float32",)}
        for name, t in {"image": rgb.image, "skip": rgb.skip, "f": rgb.f}.items():
            if t is not None and str(t.dtype) not in exact[name]:
                raise ValueError(f"modulated_conv2d: {name} is {t.dtype}, not {' or '.join(exact[name])}")
        if not rgb.image.is_contiguous() or tuple(rgb.image.shape) != wanted["image"]:
            raise ValueError(f"modulated_conv2d: image is {list(rgb.image.shape)}, not contiguous {list(wanted['image'])}")
    for name, t in given.items():
        if t is None:
            continue
        check_float(t, f"modulated_conv2d: {name}")
        if tuple(t.shape) != wanted[name]:
            raise ValueError(f"modulated_conv2d: {name} is {list(t.shape)}, not {list(wanted[name])}")
    for name, t in {"x": x, "weight": weight, **given}.items():
        if t is not None and name != "noise" and not t.is_contiguous():
            raise ValueError(f"modulated_conv2d: {name} must be contiguous")
    if y is not None and y.dtype != x.dtype:
        raise ValueError(f"modulated_conv2d: output is {y.dtype}, not {x.dtype}")
    if precision not in PRECISIONS:
        raise ValueError(f"modulated_conv2d: precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    sample = h * w * max(i, o * up * up)
    if sample > MAX_OFFSET or weight.numel() > MAX_OFFSET:
        raise ValueError(f"modulated_conv2d: a sample of {[h, w, i]} or the weight is too large for 32-bit offsets")


def _check_workspace(workspace: Any, elements: int, kind: str | None) -> None:
    dtype = "torch.int32" if kind == "int8" else "torch.float32"
    if workspace is None or workspace.numel() < elements or str(workspace.dtype) != dtype or not workspace.is_contiguous():
        raise ValueError(f"modulated_conv2d: a split sum needs a contiguous workspace of {elements} {dtype}")


def _architecture(x: Any) -> int | None:
    """Compute capability of the GPU that holds `x`, such as 90; None on a CPU."""
    return _capability(x.device.index) if x.device.type == "cuda" else None


@functools.cache
def _capability(index: int) -> int:
    """That of the current GPU, which is number `index`; asked once, since every launch wants to know."""
    return int(triton.runtime.driver.active.get_current_target().arch)
