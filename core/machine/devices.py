"""The NVIDIA GPUs of this machine, read from the CUDA driver by ctypes. No package is needed."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

# CUdevice_attribute of the CUDA driver API
COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """One GPU of this machine. `memory` is in bytes."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory: int

    @property
    def target(self) -> str:
        """The architecture for which an engine is built, such as `sm_89`."""
        return "sm_{}{}".format(*self.compute_capability)


@dataclass(frozen=True)
class Driver:
    """The CUDA driver and its GPUs. Without a driver or a GPU, `gpus` is empty and `problem` says why."""

    cuda_version: str | None
    gpus: tuple[Gpu, ...]
    problem: str | None


def find_gpus(library: str | None = None) -> Driver:
    """List the GPUs that the CUDA driver finds. Never raises.

    Args:
        library: File of the driver library; by default the one that the system finds.
    """
    name = library or ("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    try:
        cuda = ctypes.CDLL(name)
    except OSError:
        return Driver(None, (), "no NVIDIA driver is installed")
    version = ctypes.c_int()
    known = cuda.cuDriverGetVersion(ctypes.byref(version)) == 0
    cuda_version = f"{version.value // 1000}.{version.value % 1000 // 10}" if known else None
    count = ctypes.c_int()
    status = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if status != 0:
        return Driver(cuda_version, (), f"the NVIDIA driver finds no usable GPU (error {status})")
    if count.value == 0:
        return Driver(cuda_version, (), "the NVIDIA driver finds no GPU")
    return Driver(cuda_version, tuple(_gpu(cuda, i) for i in range(count.value)), None)


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device = ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(name, len(name), device)
    memory = ctypes.c_size_t()
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    return Gpu(index, name.value.decode(errors="replace"), (capability[0], capability[1]), memory.value)
