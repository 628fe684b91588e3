"""Compile the kernels ahead of time, for GPUs that need not be here: `python -m stylert.plugins.aot --out DIR`.

Each kernel is compiled at the tiles and dtypes that a generator's layers use, once per architecture. Beside the PTX and
the cubins, `manifest.json` states what the compiler made of them: registers and stack per thread (a stack is where
registers spill to), shared memory per block, and which matrix instructions the product became.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stylert.plugins.triton.tiles import FP8_ARCHITECTURE, Tile

ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_120")

_POINTER = {
    "int8": "*i8",
    "int32": "*i32",
    "uint8": "*u8",
    "fp8": "*fp8e4nv",
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "float32": "*fp32",
}


@dataclass(frozen=True)
class Variant:
    """One specialisation of one kernel: what it is compiled for.

    `pointers` maps pointer arguments to dtypes, `constants` fixes arguments at compile time, `aligned` names the integers
    that are known multiples of 16 (so that loads are 16 bytes wide), and `hot` says that a generator's speed hangs on it. `oldest` is
    the first compute capability that can run it.
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
    oldest: int = 80


def variants() -> Iterator[Variant]:
    """The representative specialisations: the layers of a StyleGAN2 generator, from 4 px to 1024 px."""
    yield from _modulated_conv2d()
    yield from _upfirdn2d()
    yield from _bias_act()


def compile_all(architectures: Sequence[str] = ARCHITECTURES, out: Path | None = None, only: str = "*") -> list[dict[str, Any]]:
    """Compile every variant whose name matches `only` for every architecture; return the manifest's entries.

    Args:
        architectures: names like "sm_90".
        out: folder for `<variant>.<arch>.ptx`, `.cubin` and `manifest.json`; None writes nothing.
        only: shell pattern of variant names.

    Raises:
        ValueError: an architecture that is not listed in `ARCHITECTURES`, a pattern that matches nothing, or only what none of
            the architectures can run (beside others such a variant is passed over), or a folder that cannot be written.
        RuntimeError: Triton runs in its interpreter (`TRITON_INTERPRET`), where kernels are not compiled.
    """
    unknown = [arch for arch in architectures if arch not in ARCHITECTURES]
    if unknown or not architectures:
        raise ValueError(f"unknown architecture {', '.join(unknown) or '(none given)'}: choose from {', '.join(ARCHITECTURES)}")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise RuntimeError("TRITON_INTERPRET is set: unset it to compile kernels")
    named = [variant for variant in variants() if fnmatch(variant.name, only)]
    if not named:
        raise ValueError(f"no variant matches {only!r}: there are {', '.join(v.name for v in variants())}")
    chosen = [(arch, variant) for arch in architectures for variant in named if _number(arch) >= variant.oldest]
    if not chosen:
        oldest = min(variant.oldest for variant in named)
        raise ValueError(f"{only!r} needs sm_{oldest} or later, which {', '.join(architectures)} is not")

    if out is not None:
        _make_writable(out)
    entries = []
    for arch, variant in chosen:
        ptx, cubin, entry = compile_variant(variant, arch)
        if out is not None:
            stem = f"{variant.name}.{arch}"
            (out / f"{stem}.ptx").write_text(ptx)
            (out / f"{stem}.cubin").write_bytes(cubin)
            entry |= {"ptx": f"{stem}.ptx", "cubin": f"{stem}.cubin", "ptx_sha256": _sha256(ptx.encode())}
        entries.append(entry)
    if out is not None:
        manifest = {"schema": 1, "triton": version("triton"), "kernels": entries}
        partial = out / "manifest.json.partial"
        partial.write_text(json.dumps(manifest, indent=2) + "\n")
        partial.replace(out / "manifest.json")
    return entries


def compile_variant(variant: Variant, arch: str) -> tuple[str, bytes, dict[str, Any]]:
    """PTX, cubin and manifest entry of one variant for one architecture."""
    compiled, visible = compile_kernel(
        _kernels()[variant.kernel], variant.pointers, variant.constants, variant.aligned, arch,
        num_warps=variant.num_warps, num_stages=variant.num_stages,
    )  # fmt: skip
    ptx, cubin = compiled.asm["ptx"], compiled.asm["cubin"]
    usage = _resource_usage(cubin)
    entry = {
        "variant": variant.name,
        "kernel": variant.kernel,
        "entry": compiled.metadata.name,
        "arch": arch,
        "dtype": variant.dtype,
        "tile": variant.tile,
        "hot": variant.hot,
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "registers": usage["REG"],
        "spill_bytes": usage["STACK"] + usage["LOCAL"],
        "shared_bytes": compiled.metadata.shared,
        "matrix_instructions": sorted(set(re.findall(r"\b(?:wgmma\.mma_async|mma)\.sync\.aligned\.m\w+", ptx))),
        "arguments": visible,
        # Triton appends pointers of its own (scratch memory, profiler), which a launcher sets to null.
        "hidden_pointers": ptx[: ptx.index(")")].count(".param") - len(visible),
        "constants": variant.constants,
    }
    return ptx, cubin, entry


def compile_kernel(
    kernel: Any,
    pointers: Mapping[str, str],
    constants: Mapping[str, Any],
    aligned: Collection[str],
    arch: str,
    *,
    num_warps: int,
    num_stages: int,
) -> tuple[Any, dict[str, str]]:
    """Compile one Triton kernel for an architecture that need not be here.

    Args:
        kernel: a `triton.jit` function; arguments named `*_ptr` are pointers, all others not in `constants` 32-bit integers.
        pointers: dtype name of every pointer; each is taken to be aligned to 16 bytes.
        constants: compile-time arguments.
        aligned: integers that are known multiples of 16.
        arch: such as "sm_90".

    Returns:
        Triton's compiled kernel (`asm`, `metadata`), and name to type of the arguments that are left, in order.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, attrs = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = _POINTER[pointers[name]] if name.endswith("_ptr") else "i32"
        if name.endswith("_ptr") or name in aligned:
            attrs[(index,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(kernel, signature, dict(constants), attrs),
        target=GPUTarget("cuda", _number(arch), 32),
        options={"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True},
    )
    return compiled, {name: kind for name, kind in signature.items() if kind != "constexpr"}


def without_hidden_pointers(ptx: str, arguments: int) -> str:
    """The kernel with its first `arguments` parameters alone, for a launcher that knows no others.

    Triton appends pointers to scratch and profiler memory. A launcher that passes what the kernel's author wrote would
    leave them to chance.

    Raises:
        ValueError: the kernel reads one of them.
    """
    start = ptx.index("(", ptx.index(".entry")) + 1
    end = ptx.index(")", start)
    parameters = [line.strip() for line in ptx[start:end].split(",")]
    hidden = [parameter.split()[-1] for parameter in parameters[arguments:]]
    used = [name for name in hidden if re.search(rf"\b{re.escape(name)}\b", ptx[end:])]
    if used:
        raise ValueError(f"the kernel reads Triton's own {', '.join(used)}: it needs Triton's launcher")
    return ptx[:start] + "\n\t" + ",\n\t".join(parameters[:arguments]) + "\n" + ptx[end:]


def table(entries: Sequence[dict[str, Any]]) -> str:
    """The manifest as text: one line per variant, one column of `registers / spills / shared KB` per architecture."""
    architectures = list(dict.fromkeys(entry["arch"] for entry in entries))
    rows = [["variant", "tile", *architectures]]
    for name in dict.fromkeys(entry["variant"] for entry in entries):
        mine = {entry["arch"]: entry for entry in entries if entry["variant"] == name}
        cells = [
            f"{e['registers']} / {e['spill_bytes']} / {e['shared_bytes'] / 1024:.0f}" if (e := mine.get(arch)) else "-"
            for arch in architectures
        ]
        rows.append([name, next(iter(mine.values()))["tile"], *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 where a hot kernel spills, 2 on a wrong argument."""
    parser = argparse.ArgumentParser(prog="python -m stylert.plugins.aot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", default=",".join(ARCHITECTURES), help="comma-separated, default: all")
    parser.add_argument("--out", type=Path, required=True, help="folder for PTX, cubins and manifest.json")
    parser.add_argument("--only", default="*", help="shell pattern of variant names")
    options = parser.parse_args(arguments)
    try:
        entries = compile_all(options.arch.split(","), options.out, options.only)
    except (ImportError, RuntimeError, ValueError) as error:
        needs = "compiling kernels needs Triton: pip install triton" if isinstance(error, ImportError) else error
        print(f"error: {needs}", file=sys.stderr)
        return 2
    print(table(entries))
    spilling = [f"{e['variant']} on {e['arch']}" for e in entries if e["hot"] and e["spill_bytes"]]
    if spilling:
        print(f"error: registers spill in {', '.join(spilling)}", file=sys.stderr)
    return 1 if spilling else 0


def _modulated_conv2d() -> Iterator[Variant]:
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
    yield conv_variant("rgb_f16_32ch", "float16", Tile(128, 32, 32), kernel="rgb")
    yield conv_variant("rgb_f16_64ch", "float16", Tile(128, 64, 64), kernel="rgb")
    yield conv_variant("rgb_f16_128ch", "float16", Tile(128, 128, 32, 8), kernel="rgb")
    yield conv_variant("rgb_i8_32ch", "int8", Tile(128, 32, 32), kernel="rgb")
    yield conv_variant("rgb_fp8_32ch", "fp8", Tile(128, 32, 32), kernel="rgb")
    yield conv_variant("split_f16", "float16", Tile(64, 64, 64, splits=8), kernel="split", per_sample=False)
    yield conv_variant("split_up2_f16", "float16", Tile(64, 64, 64, splits=8), kernel="split", up=2, per_sample=False)
    yield conv_variant("split_i8", "int8", Tile(64, 64, 64, splits=8), kernel="split", per_sample=False)
    yield conv_variant("sum_f16", "float16", Tile(16, 64, 16, splits=8), kernel="sum")


def conv_variant(
    name: str, dtype: str, tile: Tile, *, kernel: str = "whole", up: int = 1, ksize: int = 3, style: bool = True,
    per_sample: bool = True,
) -> Variant:  # fmt: skip
    """One of ModulatedConv2d's kernels ("whole", "rgb", "split", "sum"), with weights of `dtype`, at `tile`; 1x1 is torgb."""
    full, itemsize_8 = ksize == 3, dtype in ("int8", "fp8")
    activations = "float16" if itemsize_8 else dtype
    sums = "int32" if dtype == "int8" else "float32"
    constants: dict[str, Any] = {
        "HAS_STYLE": style, "HAS_DEMOD": full, "HAS_NOISE": full, "HAS_BIAS": True, "UP": up, "KSIZE": ksize,
        "SLOPE": 0.2 if full else 1.0, "GAIN": 2.0**0.5 if full else 1.0, "CLAMP": 256.0,
        "NHWC": True, "OHWI": True, "FOLD": 0, "TAPS": 0, "SHIFT": 0, "PER_SAMPLE": per_sample,
        "PRECISION": dtype if itemsize_8 else "tf32x3", "GROUP": tile.group, "SPLITS": tile.splits,
        "RGB": 3, "RGB_BIAS": True, "RGB_CLAMP": 256.0, "HAS_SKIP": True, "HAS_Y": True,
        "BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k,
    }  # fmt: skip
    own = {
        "whole": "modulated_conv2d",
        "rgb": "modulated_conv2d_rgb",
        "split": "modulated_conv2d_split",
        "sum": "modulated_conv2d_sum",
    }
    names = _kernels()[own[kernel]].arg_names
    pointers = dict.fromkeys((p for p in names if p.endswith("_ptr")), "float32")
    kinds = {"x_ptr": activations, "w_ptr": dtype, "y_ptr": activations, "work_ptr": sums}
    pointers |= {p: kind for p, kind in kinds.items() if p in pointers}
    aligned = tuple(v for v in ("i", "o", "x_n") if v in names and (full or v != "o"))
    return Variant(
        f"modulated_conv2d_{name}", own[kernel], dtype, pointers, {c: v for c, v in constants.items() if c in names},
        aligned, tile.num_warps, tile.num_stages, tile=f"{tile.m}x{tile.n}x{tile.k}",
        oldest=FP8_ARCHITECTURE if dtype == "fp8" else 80,
    )  # fmt: skip


def _upfirdn2d() -> Iterator[Variant]:
    from stylert.plugins.shapes import Resampling
    from stylert.plugins.triton.upfirdn2d import gather_constants, quad_constants

    taps = (4, 4)
    up2 = Resampling.of(up=2, padding=(2, 1, 2, 1), gain=4.0)
    down2 = Resampling.of(down=2, padding=1)
    for name, spec in {"up2": up2, "down2": down2}.items():
        for dtype, layout, p, c in (("float16", "nhwc", 16, 64), ("float32", "nchw", 256, 1)):
            unit = "x_c" if layout == "nhwc" else "x_w"
            constants = {**quad_constants(spec, taps), "BLOCK_P": p, "BLOCK_C": c, unit: 1, unit.replace("x", "y"): 1}
            aligned = tuple(f"{t}_{axis}" for t in "xy" for axis in ("n", "h", "w" if layout == "nhwc" else "c")) + (
                ("c",) if layout == "nhwc" else ()
            )
            pointers = {"x_ptr": dtype, "f_ptr": "float32", "y_ptr": dtype}
            yield Variant(
                f"upfirdn2d_{name}_{layout}_{'f16' if dtype == 'float16' else 'f32'}", "upfirdn2d_quad", dtype,
                pointers, constants, aligned, tile=f"{p} quads x {c}",
            )  # fmt: skip
    gather = gather_constants(Resampling.of(padding=6), (12, 12))
    yield Variant(
        "upfirdn2d_gather_nhwc_f16", "upfirdn2d_gather", "float16",
        {"x_ptr": "float16", "f_ptr": "float32", "y_ptr": "float16"},
        {**gather, "BLOCK_P": 8, "BLOCK_C": 64, "x_c": 1, "y_c": 1}, ("c", "x_n", "x_h", "x_w", "y_n", "y_h", "y_w"),
        hot=False, tile="8 x 64",
    )  # fmt: skip


def _bias_act() -> Iterator[Variant]:
    constants = {"SLOPE": 0.2, "GAIN": 2.0**0.5, "CLAMP": 256.0, "WIDE": False, "BLOCK": 1024}
    pointers = {"x_ptr": "float16", "b_ptr": "float32", "y_ptr": "float16"}
    forward = {"HAS_BIAS": True, **constants}
    yield Variant("bias_act_forward_f16", "bias_act", "float16", pointers, forward, ("count", "c"), tile="1024")
    pointers = {"y_ptr": "float16", "dy_ptr": "float16", "dx_ptr": "float16"}
    yield Variant("bias_act_backward_f16", "bias_act_gradient", "float16", pointers, constants, ("count",), tile="1024")


def _kernels() -> dict[str, Any]:
    from stylert.plugins.triton.bias_act import bias_act_gradient_kernel, bias_act_kernel
    from stylert.plugins.triton.conv_programs import modulated_conv2d_kernel, rgb_kernel, split_kernel, sum_kernel
    from stylert.plugins.triton.upfirdn2d import gather_kernel, quad_kernel

    return {
        "modulated_conv2d": modulated_conv2d_kernel,
        "modulated_conv2d_rgb": rgb_kernel,
        "modulated_conv2d_split": split_kernel,
        "modulated_conv2d_sum": sum_kernel,
        "upfirdn2d_quad": quad_kernel,
        "upfirdn2d_gather": gather_kernel,
        "bias_act": bias_act_kernel,
        "bias_act_gradient": bias_act_gradient_kernel,
    }


def _resource_usage(cubin: bytes) -> dict[str, int]:
    """Registers, stack and local bytes of the one kernel in a cubin, as NVIDIA's own tool reads them from it."""
    import tempfile

    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    if "REG" not in usage:
        raise RuntimeError(f"cuobjdump reported no register count: {text.strip()[:200]}")
    return usage


def _make_writable(folder: Path) -> None:
    """Make the folder, and find out before the work that nothing can be written there."""
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"cannot write into {folder}: {error.strerror}") from None


def _number(arch: str) -> int:
    """Compute capability: 90 of "sm_90"."""
    return int(arch.removeprefix("sm_"))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
