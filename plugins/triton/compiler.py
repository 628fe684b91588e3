"""Compiles a Triton kernel for a GPU architecture that this machine need not have.

In: a `triton.jit` function, the dtypes of its pointers and its compile-time arguments. Out: PTX, cubin and their
resource usage. Triton is imported when a function is called.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Collection, Mapping
from typing import Any

from stylert.core.files.temporary import temporary_folder

#: Dtype name to Triton's name of a pointer to it.
POINTER_TYPES = {
    "int8": "*i8",
    "int32": "*i32",
    "uint8": "*u8",
    "fp8": "*fp8e4nv",
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "float32": "*fp32",
}

#: Compute capability to the first version of PTX that has it ("PTX ISA", release notes), 70 for 7.0. From 90 on, Triton
#: compiles for the architecture's own features, such as sm_90a.
#:
#: By default Triton states the newest version that its assembler knows, although its code does not need it. A driver
#: refuses PTX that is newer than itself: 9.4 is read from CUDA 13.4 on, 8.0 from 12.0 on, 8.7 from 12.8 on.
OLDEST_PTX = {80: 70, 86: 71, 87: 74, 89: 78, 90: 80, 100: 86, 103: 88, 110: 90, 120: 87, 121: 88}

#: The first version of PTX with products of FP8 outside wgmma, for sm_89.
OLDEST_PTX_OF_FP8 = 84


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
    """Compile one Triton kernel for one architecture.

    Args:
        kernel: A `triton.jit` function. Arguments named `*_ptr` are pointers. All others are 32-bit integers or in
            `constants`.
        pointers: Dtype name of every pointer, a key of `POINTER_TYPES`. Each pointer is taken to be aligned to 16
            bytes.
        constants: Compile-time arguments.
        aligned: Names of the integers that are known multiples of 16. They make loads 16 bytes wide.
        arch: Such as "sm_90".
        num_warps: Warps per program.
        num_stages: Steps of a loop that Triton loads ahead.

    Returns:
        Triton's compiled kernel (`asm`, `metadata`), and name to type of the arguments that remain, in order.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, attributes = {}, {}
    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
            continue
        signature[name] = POINTER_TYPES[pointers[name]] if name.endswith("_ptr") else "i32"
        if name.endswith("_ptr") or name in aligned:
            attributes[(index,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(kernel, signature, dict(constants), attributes),
        target=GPUTarget("cuda", capability(arch), 32),
        options={
            "num_warps": num_warps,
            "num_stages": num_stages,
            "enable_fp_fusion": True,
            "ptx_version": ptx_version(arch, "fp8" in pointers.values()),
        },
    )
    return compiled, {name: kind for name, kind in signature.items() if kind != "constexpr"}


def ptx_version(arch: str, fp8: bool = False) -> int | None:
    """The oldest version of PTX that can state our kernels for an architecture, as 80 for 8.0.

    Args:
        arch: Such as "sm_90".
        fp8: Whether the kernel multiplies FP8 numbers.

    Returns:
        The version; None for an architecture that is not in `OLDEST_PTX`, for which Triton chooses.
    """
    oldest = OLDEST_PTX.get(capability(arch))
    return oldest if oldest is None or not fp8 else max(oldest, OLDEST_PTX_OF_FP8)


def without_hidden_pointers(ptx: str, arguments: int) -> str:
    """The PTX of a kernel with its first `arguments` parameters only.

    Triton appends pointers to its own scratch and profiler memory. TensorRT's launcher does not pass them.

    Args:
        ptx: The kernel as Triton compiled it.
        arguments: How many parameters the kernel's author declared.

    Raises:
        ValueError: The kernel reads one of Triton's own pointers.
    """
    start = ptx.index("(", ptx.index(".entry")) + 1
    end = ptx.index(")", start)
    parameters = [line.strip() for line in ptx[start:end].split(",")]
    hidden = [parameter.split()[-1] for parameter in parameters[arguments:]]
    used = [name for name in hidden if re.search(rf"\b{re.escape(name)}\b", ptx[end:])]
    if used:
        raise ValueError(f"the kernel reads Triton's own {', '.join(used)}: it needs Triton's launcher")
    return ptx[:start] + "\n\t" + ",\n\t".join(parameters[:arguments]) + "\n" + ptx[end:]


def resource_usage(cubin: bytes) -> dict[str, int]:
    """Registers (`REG`), stack bytes (`STACK`) and local bytes (`LOCAL`) per thread of the one kernel in a cubin.

    NVIDIA's `cuobjdump`, which Triton brings, reads them.

    Raises:
        RuntimeError: The tool reported no register count.
    """
    from triton import knobs

    with temporary_folder("cubin") as folder:
        path = folder / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        text = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace").stdout
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    if "REG" not in usage:
        raise RuntimeError(f"cuobjdump reported no register count: {text.strip()[:200]}")
    return usage


def capability(arch: str) -> int:
    """Compute capability of an architecture: 90 for "sm_90"."""
    return int(arch.removeprefix("sm_"))
