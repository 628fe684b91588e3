#!/usr/bin/env python3
"""Images handed to another array library without a copy, and latents taken from one.

python examples/zero_copy.py out/demo/bundle --library torch
python examples/zero_copy.py out/demo/bundle --backend tensorrt-rtx --library cupy

On a CPU backend the library reads the very memory that the image was computed into. On a GPU backend the latents are read
where the library keeps them, the images are written into an array of the library's own, and nothing crosses the bus.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from stylert.core.errors import StylertError
from stylert.core.seeds import z_from_seeds
from stylert.runtime import Generator


@dataclass(frozen=True)
class Library:
    """The three things that this example needs of an array library."""

    take: Callable[[Any], Any]  # an array that tells of itself, without a copy
    upload: Callable[[np.ndarray], Any]  # a copy on the GPU
    empty: Callable[[tuple[int, ...], Any], Any]  # on the GPU
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
        with Generator.load(options.bundle, options.backend, options.precision) as generator:
            ws = generator.map(z_from_seeds([1, 2, 3, 4], generator.bundle.model["z_dim"]), psi=0.7)
            on_gpu(generator, library, ws) if generator.device == "cuda" else on_cpu(generator, library, ws)
    except StylertError as e:
        sys.exit(f"zero_copy: {e}")
    except ImportError as e:
        sys.exit(f"zero_copy: {e}")


def on_cpu(generator: Generator, library: Library, ws: np.ndarray) -> None:
    images = generator.synthesize(ws)
    taken = library.take(images)
    same = library.address(taken) == images.ctypes.data
    print(f"{type(taken).__module__}: {tuple(taken.shape)}, the same memory: {'yes' if same else 'no'}")
    # Back again: latents of the library are read where they are.
    again = generator.synthesize(library.take(ws))
    print(f"latents taken from it give the same images: {'yes' if np.array_equal(again, images) else 'no'}")


def on_gpu(generator: Generator, library: Library, ws: np.ndarray) -> None:
    latents = library.upload(ws)
    images = generator.synthesize_on_device(latents)  # in new memory of the GPU
    taken = library.take(images)
    print(f"{type(taken).__module__}: {tuple(taken.shape)} at {library.address(taken):#x}")
    out = library.empty(images.shape, images.dtype)
    for _ in range(3):  # from the third time on one launch of a graph that reads `latents` and writes `out`
        generator.synthesize_on_device(latents, out=out)
    print(f"written into the library's own array at {library.address(out):#x}")


def numpy_library() -> Library:
    def nowhere(*_: Any) -> Any:
        raise ImportError("NumPy has no GPU arrays: --library torch, cupy or pycuda")

    return Library(np.from_dlpack, nowhere, nowhere, lambda a: a.ctypes.data)


def torch_library() -> Library:
    import torch

    def empty(shape: tuple[int, ...], dtype: Any) -> Any:
        return torch.empty(shape, dtype=getattr(torch, np.dtype(dtype).name), device="cuda")

    return Library(torch.from_dlpack, lambda a: torch.from_numpy(a).cuda(), empty, lambda a: a.data_ptr())


def cupy_library() -> Library:
    import cupy

    return Library(cupy.from_dlpack, cupy.asarray, cupy.empty, lambda a: a.data.ptr)


def pycuda_library() -> Library:
    import pycuda.autoprimaryctx  # noqa: F401  (the context that the runtime uses as well)
    from pycuda import gpuarray

    def take(images: Any) -> Any:
        told = images.__cuda_array_interface__
        return gpuarray.GPUArray(told["shape"], np.dtype(told["typestr"]), base=images, gpudata=told["data"][0])

    return Library(take, gpuarray.to_gpu, gpuarray.empty, lambda a: int(a.gpudata))


LIBRARIES = {"numpy": numpy_library, "torch": torch_library, "cupy": cupy_library, "pycuda": pycuda_library}


if __name__ == "__main__":
    main()
