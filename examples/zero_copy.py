#!/usr/bin/env python3
"""Give images to another array library, and take latents from it, without a copy.

python examples/zero_copy.py out/demo/bundle --library torch
python examples/zero_copy.py out/demo/bundle --backend tensorrt-rtx --library cupy

On a CPU backend the library reads the memory of the image itself. On a GPU backend the latents are read from the library's
array, the images are written into another of its arrays, and nothing is copied between host and GPU.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylert.core.errors import BackendError
from stylert.core.programs.runner import run_program
from stylert.core.seeds import z_from_seeds
from stylert.runtime import Generator


@dataclass(frozen=True)
class Library:
    """The functions of an array library that this example needs.

    Attributes:
        from_images: Wraps an array of images, without a copy.
        to_gpu: Copies a NumPy array to the GPU.
        empty: Allocates an array on the GPU, of a shape and a NumPy type.
        address: The address of an array of the library.
    """

    from_images: Callable[[Any], Any]
    to_gpu: Callable[[np.ndarray], Any]
    empty: Callable[[tuple[int, ...], Any], Any]
    address: Callable[[Any], int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--library", choices=["numpy", "torch", "cupy", "pycuda"], default="numpy")
    options = parser.parse_args()
    try:
        library = LIBRARIES[options.library]()
    except ImportError as e:
        raise BackendError(f"{options.library} cannot be imported: {e}") from None
    with Generator.load(options.bundle, options.backend, options.precision) as generator:
        ws = generator.map(z_from_seeds([1, 2, 3, 4], generator.bundle.model["z_dim"]), psi=0.7)
        share = share_on_gpu if generator.device == "cuda" else share_on_cpu
        share(generator, library, ws)


def share_on_cpu(generator: Generator, library: Library, ws: np.ndarray) -> None:
    images = generator.synthesize(ws)
    shared = library.from_images(images)
    same_memory = library.address(shared) == images.ctypes.data
    print(f"{type(shared).__module__}: {tuple(shared.shape)}, the same memory: {yes_or_no(same_memory)}")
    repeated = generator.synthesize(library.from_images(ws))
    print(f"latents taken from it give the same images: {yes_or_no(np.array_equal(repeated, images))}")


def share_on_gpu(generator: Generator, library: Library, ws: np.ndarray) -> None:
    latents = library.to_gpu(ws)
    images = generator.synthesize_on_device(latents)  # in new memory of the GPU
    shared = library.from_images(images)
    print(f"{type(shared).__module__}: {tuple(shared.shape)} at {library.address(shared):#x}")
    out = library.empty(images.shape, images.dtype)
    for _ in range(3):  # the third call is one launch of a graph that reads `latents` and writes `out`
        generator.synthesize_on_device(latents, out=out)
    print(f"written into the library's own array at {library.address(out):#x}")


def yes_or_no(condition: bool) -> str:
    return "yes" if condition else "no"


def numpy_library() -> Library:
    def no_gpu(*_: Any) -> Any:
        raise BackendError("NumPy has no GPU arrays: --library torch, cupy or pycuda")

    return Library(np.from_dlpack, no_gpu, no_gpu, lambda a: a.ctypes.data)


def torch_library() -> Library:
    import torch

    def empty(shape: tuple[int, ...], dtype: Any) -> Any:
        return torch.empty(shape, dtype=getattr(torch, np.dtype(dtype).name), device="cuda")

    return Library(torch.from_dlpack, lambda a: torch.from_numpy(a).cuda(), empty, lambda a: a.data_ptr())


def cupy_library() -> Library:
    import cupy

    return Library(cupy.from_dlpack, cupy.asarray, cupy.empty, lambda a: a.data.ptr)


def pycuda_library() -> Library:
    import pycuda.autoprimaryctx  # noqa: F401  (makes the primary context current, which the runtime uses as well)
    from pycuda import gpuarray

    def from_images(images: Any) -> Any:
        interface = images.__cuda_array_interface__
        address = interface["data"][0]
        return gpuarray.GPUArray(interface["shape"], np.dtype(interface["typestr"]), base=images, gpudata=address)

    return Library(from_images, gpuarray.to_gpu, gpuarray.empty, lambda a: int(a.gpudata))


LIBRARIES = {"numpy": numpy_library, "torch": torch_library, "cupy": cupy_library, "pycuda": pycuda_library}


if __name__ == "__main__":
    run_program("zero_copy", main)
