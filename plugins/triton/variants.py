"""The specialisations that `stylert.plugins.aot` compiles: the layers of a StyleGAN2 generator, 4 to 1024 px.

A specialisation fixes dtypes, attributes and tile of one kernel. Triton is imported when a function is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stylert.plugins.shapes import Epilogue, Resampling
from stylert.plugins.triton.tiles import FP8_ARCHITECTURE, HOPPER, ITEMSIZE, Tile

#: The first compute capability that Triton supports.
OLDEST_CAPABILITY = 80


@dataclass(frozen=True)
class Variant:
    """One specialisation of one kernel.

    Attributes:
        name: Name of the specialisation, and of its files.
        kernel: Key of `kernels()`.
        dtype: Dtype of the weights, or of the images of a kernel that has no weights.
        pointers: Pointer argument to dtype name.
        constants: Arguments that are fixed at compile time.
        aligned: Integers that are known multiples of 16, so that loads are 16 bytes wide.
        num_warps: Warps per program.
        num_stages: Steps of a loop that are loaded ahead.
        hot: Whether the speed of a generator depends on this kernel.
        tile: The tile in words, for tables.
        min_capability: The first compute capability that can run it.
    """

    name: str
    kernel: str
    dtype: str
    pointers: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 3
    hot: bool = True
    tile: str = field(default="")
    min_capability: int = OLDEST_CAPABILITY


def variants() -> Iterator[Variant]:
    """Every specialisation that a generator's layers use."""
    yield from _modulated_conv2d_variants()
    yield from _to_rgb_variants()
    yield from _upfirdn2d_variants()
    yield from _bias_act_variants()


def constants_for(variant: Variant, architecture: int) -> dict[str, Any]:
    """The compile-time arguments of a specialisation on an architecture, such as 90. FP8 sums are other ones on Hopper."""
    if architecture == HOPPER and variant.constants.get("PRECISION") == "fp8":
        return variant.constants | {"PRECISION": "fp8_hopper"}
    return variant.constants


def kernels() -> dict[str, Any]:
    """Name to Triton function of every kernel."""
    from stylert.plugins.triton.bias_act import bias_act_gradient_kernel, bias_act_kernel
    from stylert.plugins.triton.conv_kernels import modulated_conv2d_kernel, rgb_kernel, split_kernel, sum_kernel
    from stylert.plugins.triton.to_rgb import to_rgb_kernel
    from stylert.plugins.triton.upfirdn2d import gather_kernel, quad_kernel

    return {
        "modulated_conv2d": modulated_conv2d_kernel,
        "modulated_conv2d_rgb": rgb_kernel,
        "modulated_conv2d_split": split_kernel,
        "modulated_conv2d_sum": sum_kernel,
        "to_rgb": to_rgb_kernel,
        "upfirdn2d_quad": quad_kernel,
        "upfirdn2d_gather": gather_kernel,
        "bias_act": bias_act_kernel,
        "bias_act_gradient": bias_act_gradient_kernel,
    }


def conv_variant(
    name: str, dtype: str, tile: Tile, *, kernel: str = "modulated_conv2d", up: int = 1, ksize: int = 3, style: bool = True,
    per_sample: bool = True,
) -> Variant:  # fmt: skip
    """A specialisation of one of ModulatedConv2d's kernels.

    Args:
        name: Appended to "modulated_conv2d_".
        dtype: Dtype of the weights, a key of `ITEMSIZE`. Activations of 8-bit weights are float16.
        tile: Shape of one program's work.
        kernel: Key of `kernels()`, one that begins with "modulated_conv2d".
        up: 1 or 2.
        ksize: Kernel width. 3 is a convolution layer with every operand, 1 is torgb.
        style: Whether the kernel multiplies the input by the style.
        per_sample: Whether a tile lies in one sample.
    """
    is_conv_layer, is_8_bit = ksize == 3, ITEMSIZE[dtype] == 1
    epilogue = Epilogue.of("lrelu" if is_conv_layer else "linear", clamp=256.0)
    constants: dict[str, Any] = {
        "HAS_STYLE": style, "HAS_DEMOD": is_conv_layer, "HAS_NOISE": is_conv_layer, "HAS_BIAS": True, "UP": up, "KSIZE": ksize,
        "SLOPE": epilogue.slope, "GAIN": epilogue.gain, "CLAMP": epilogue.clamp,
        "NHWC": True, "OHWI": True, "FOLD": 0, "TAPS": 0, "SHIFT": 0, "PER_SAMPLE": per_sample,
        "PRECISION": dtype if is_8_bit else "tf32x3", "GROUP": tile.group, "SPLITS": tile.splits,
        "RGB": 3, "RGB_BIAS": True, "RGB_CLAMP": 256.0, "HAS_SKIP": True, "HAS_Y": True,
        "BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k,
    }  # fmt: skip
    activations = "float16" if is_8_bit else dtype
    dtypes = {
        "x_ptr": activations,
        "w_ptr": dtype,
        "y_ptr": activations,
        "work_ptr": "int32" if dtype == "int8" else "float32",
    }
    arguments = kernels()[kernel].arg_names
    return Variant(
        name=f"modulated_conv2d_{name}",
        kernel=kernel,
        dtype=dtype,
        pointers={argument: dtypes.get(argument, "float32") for argument in arguments if argument.endswith("_ptr")},
        constants={argument: value for argument, value in constants.items() if argument in arguments},
        # torgb has 3 output channels, which is no multiple of 16.
        aligned=tuple(size for size in ("i", "o", "x_n") if size in arguments and (is_conv_layer or size != "o")),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        tile=f"{tile.m}x{tile.n}x{tile.k}",
        min_capability=FP8_ARCHITECTURE if dtype == "fp8" else OLDEST_CAPABILITY,
    )


def _modulated_conv2d_variants() -> Iterator[Variant]:
    yield conv_variant("3x3_f16", "float16", Tile(128, 128, 64, 8))
    yield conv_variant("3x3_f16_prescaled", "float16", Tile(128, 128, 64, 8), style=False)
    yield conv_variant("3x3_f16_64ch", "float16", Tile(128, 64, 64))
    yield conv_variant("3x3_f16_32ch", "float16", Tile(128, 32, 32))
    yield conv_variant("3x3_f16_small_maps", "float16", Tile(64, 64, 64), per_sample=False)
    yield conv_variant("up2_f16", "float16", Tile(128, 128, 64, 8), up=2)
    yield conv_variant("up2_f16_64ch", "float16", Tile(128, 64, 64), up=2)
    yield conv_variant("up2_f16_32ch", "float16", Tile(128, 32, 64), up=2)
    yield conv_variant("torgb_f16", "float16", Tile(128, 16, 64), ksize=1)
    yield conv_variant("3x3_i8", "int8", Tile(128, 128, 64, 8))
    yield conv_variant("3x3_i8_32ch", "int8", Tile(128, 32, 32))
    yield conv_variant("up2_i8", "int8", Tile(128, 128, 64, 8), up=2)
    yield conv_variant("3x3_fp8", "fp8", Tile(128, 128, 64, 8))
    yield conv_variant("3x3_fp8_32ch", "fp8", Tile(128, 32, 32))
    yield conv_variant("up2_fp8", "fp8", Tile(128, 128, 64, 8), up=2)
    yield conv_variant("3x3_bf16", "bfloat16", Tile(128, 128, 64, 8))
    yield conv_variant("3x3_f32", "float32", Tile(64, 64, 32))
    yield conv_variant("up2_f32", "float32", Tile(64, 64, 32), up=2)

    rgb = "modulated_conv2d_rgb"
    yield conv_variant("rgb_f16_32ch", "float16", Tile(128, 32, 32), kernel=rgb)
    yield conv_variant("rgb_f16_64ch", "float16", Tile(128, 64, 64), kernel=rgb)
    yield conv_variant("rgb_f16_128ch", "float16", Tile(128, 128, 32, 8), kernel=rgb)
    yield conv_variant("rgb_i8_32ch", "int8", Tile(128, 32, 32), kernel=rgb)
    yield conv_variant("rgb_fp8_32ch", "fp8", Tile(128, 32, 32), kernel=rgb)

    split, split_tile = "modulated_conv2d_split", Tile(64, 64, 64, splits=8)
    yield conv_variant("split_f16", "float16", split_tile, kernel=split, per_sample=False)
    yield conv_variant("split_up2_f16", "float16", split_tile, kernel=split, up=2, per_sample=False)
    yield conv_variant("split_i8", "int8", split_tile, kernel=split, per_sample=False)
    yield conv_variant("sum_f16", "float16", Tile(16, 64, 16, splits=8), kernel="modulated_conv2d_sum")


def _to_rgb_variants() -> Iterator[Variant]:
    from stylert.plugins.triton.to_rgb import BLOCK_I, BLOCK_P

    float32 = dict.fromkeys(("w_ptr", "style_ptr", "bias_ptr", "skip_ptr", "f_ptr", "image_ptr"), "float32")
    constants = {"RGB": 3, "RGB_BIAS": True, "RGB_CLAMP": 256.0, "HAS_SKIP": True, "BLOCK_P": BLOCK_P, "BLOCK_I": BLOCK_I}
    for name, dtype in {"f16": "float16", "f32": "float32"}.items():
        tile = f"{BLOCK_P} x {BLOCK_I}"
        yield Variant(f"to_rgb_{name}", "to_rgb", dtype, {"x_ptr": dtype, **float32}, constants, ("i",), tile=tile)


def _upfirdn2d_variants() -> Iterator[Variant]:
    from stylert.plugins.triton.upfirdn2d import gather_constants

    taps = (4, 4)
    for name, spec in {"up2": Resampling.upsampling(taps, 2), "down2": Resampling.downsampling(taps, 2)}.items():
        yield _quad_variant(f"{name}_nhwc_f16", "float16", spec, taps, block_p=16, block_c=64, nhwc=True)
        yield _quad_variant(f"{name}_nchw_f32", "float32", spec, taps, block_p=256, block_c=1, nhwc=False)
    yield Variant(
        name="upfirdn2d_gather_nhwc_f16",
        kernel="upfirdn2d_gather",
        dtype="float16",
        pointers={"x_ptr": "float16", "f_ptr": "float32", "y_ptr": "float16"},
        constants={
            **gather_constants(Resampling.of(padding=6), (12, 12)), "BLOCK_P": 8, "BLOCK_C": 64, "x_c": 1, "y_c": 1,
        },
        aligned=("c", "x_n", "x_h", "x_w", "y_n", "y_h", "y_w"),
        hot=False,
        tile="8 x 64",
    )  # fmt: skip


def _quad_variant(
    name: str, dtype: str, spec: Resampling, taps: tuple[int, int], *, block_p: int, block_c: int, nhwc: bool
) -> Variant:
    from stylert.plugins.triton.upfirdn2d import quad_constants

    contiguous_axis, other_axis = ("c", "w") if nhwc else ("w", "c")
    strides = {f"x_{contiguous_axis}": 1, f"y_{contiguous_axis}": 1}
    aligned = [f"{tensor}_{axis}" for tensor in "xy" for axis in ("n", "h", other_axis)]
    return Variant(
        name=f"upfirdn2d_{name}",
        kernel="upfirdn2d_quad",
        dtype=dtype,
        pointers={"x_ptr": dtype, "f_ptr": "float32", "y_ptr": dtype},
        constants={**quad_constants(spec, taps), "BLOCK_P": block_p, "BLOCK_C": block_c, **strides},
        aligned=(*aligned, "c") if nhwc else tuple(aligned),
        tile=f"{block_p} quads x {block_c}",
    )


def _bias_act_variants() -> Iterator[Variant]:
    epilogue = Epilogue.of("lrelu", clamp=256.0)
    constants = {
        "SLOPE": epilogue.slope,
        "GAIN": epilogue.gain,
        "CLAMP": epilogue.clamp,
        "USE_INT64": False,
        "BLOCK": 1024,
    }
    yield Variant(
        name="bias_act_forward_f16",
        kernel="bias_act",
        dtype="float16",
        pointers={"x_ptr": "float16", "b_ptr": "float32", "y_ptr": "float16"},
        constants={"HAS_BIAS": True, **constants},
        aligned=("count", "c"),
        tile="1024",
    )
    yield Variant(
        name="bias_act_backward_f16",
        kernel="bias_act_gradient",
        dtype="float16",
        pointers={"y_ptr": "float16", "dy_ptr": "float16", "dx_ptr": "float16"},
        constants=constants,
        aligned=("count",),
        tile="1024",
    )
