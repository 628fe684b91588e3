"""The GPU that the kernel benchmarks run on, or the CPU with Triton's interpreter for a dry run."""

from __future__ import annotations

import argparse
import importlib.util
import os

from stylert.core.errors import BackendError
from stylert.plugins.triton.tiles import FP8_ARCHITECTURE

#: Name of the device in a dry run.
INTERPRETER = "CPU, Triton's interpreter (a dry run: figures mean nothing)"


def has_gpu() -> bool:
    """Whether PyTorch, Triton and a CUDA GPU are present."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("triton") is None:
        return False
    import torch

    return bool(torch.cuda.is_available())


def select_device(options: argparse.Namespace) -> str:
    """`cuda`, or `cpu` for a dry run. Raises BackendError where a GPU is needed and absent."""
    if options.dry_run:
        # Triton reads this when the kernels are imported, which must not have happened yet.
        os.environ["TRITON_INTERPRET"] = "1"
        return "cpu"
    if not has_gpu():
        raise BackendError("there is no CUDA GPU here, or no PyTorch with Triton: use --dry-run")
    return "cuda"


def device_name(device: str) -> str:
    """The product name of the GPU, or `INTERPRETER`."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else INTERPRETER


def architecture_of(device: str) -> int:
    """Compute capability as one number, such as 90; 0 for the CPU."""
    if device == "cpu":
        return 0
    import torch

    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def supports_fp8(device: str) -> bool:
    """Whether the kernels run in FP8: from compute capability 8.9, and in the interpreter."""
    return device == "cpu" or architecture_of(device) >= FP8_ARCHITECTURE
