"""Registers a PyTorch custom op from a named tuple of its arguments, and says which inputs the kernels serve."""

from __future__ import annotations

import importlib.util
import os
import typing
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from stylert.plugins.constants import KERNEL_DTYPES

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_KERNEL_DTYPES = tuple(getattr(torch, name) for name in KERNEL_DTYPES)
#: Ampere. It is the first that Triton supports, and the first with tf32 and bfloat16 on tensor cores.
_OLDEST_CAPABILITY = (8, 0)

_SCHEMA_TYPES = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    Sequence[int]: "int[]",
    int: "int",
    bool: "bool",
    str: "str",
    float: "float",
    float | None: "float?",
}


def define_custom_op(
    arguments: Any,
    name: str,
    forward: Callable[[Any], Tensor],
    fake: Callable[[Any], Tensor],
    setup_context: Callable[[Any, Any, Tensor], None],
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> None:
    """Register `stylert::<name>` for every device.

    Args:
        arguments: The named tuple of the op's arguments. Its fields and their types are the schema.
        name: Name of the op.
        forward: Computes the result from the tuple.
        fake: Returns an empty tensor like the result.
        setup_context: `setup_context(ctx, arguments, output)` saves what the gradient needs.
        backward: `backward(ctx, dy)` returns a gradient or None for every field.
    """
    hints = typing.get_type_hints(arguments)
    fields = ", ".join(f"{_SCHEMA_TYPES[hint]} {field}" for field, hint in hints.items())
    op = torch.library.custom_op(
        f"stylert::{name}", lambda *args: forward(arguments(*args)), mutates_args=(), schema=f"({fields}) -> Tensor"
    )
    op.register_fake(lambda *args: fake(arguments(*args)))
    op.register_autograd(backward, setup_context=lambda ctx, inputs, output: setup_context(ctx, arguments(*inputs), output))


def has_kernels(x: Tensor) -> bool:
    """Whether the Triton kernels serve `x`: half or single precision, on CUDA, from compute capability 8.0.

    Two environment variables change the answer. `STYLERT_KERNELS=0` turns the kernels off. `TRITON_INTERPRET=1` turns
    them on for CPU tensors, where Triton's interpreter runs them slowly, to find faults.
    """
    if not _HAS_TRITON or x.dtype not in _KERNEL_DTYPES:
        return False
    if x.device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1"
    return (
        x.device.type == "cuda"
        and os.environ.get("STYLERT_KERNELS") != "0"
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability(x.device) >= _OLDEST_CAPABILITY
    )


def memory_format_of(x: Tensor) -> torch.memory_format:
    """channels_last if `x` is channels_last and not also contiguous, else contiguous."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def sum_dtype(t: Tensor) -> torch.dtype:
    """The dtype in which sums of `t` are accumulated: float32, or float64 for float64."""
    return torch.promote_types(t.dtype, torch.float32)
