"""A PyTorch custom op from a named tuple of its arguments: one place for its signature, from which the schema is made."""

from __future__ import annotations

import importlib.util
import os
import typing
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_HAS_TRITON = importlib.util.find_spec("triton") is not None
#: Ampere: what Triton supports, and the first with tf32 and bfloat16 on tensor cores.
_OLDEST_CAPABILITY = (8, 0)


def define(
    call: Any,
    name: str,
    forward: Callable[[Any], Tensor],
    fake: Callable[[Any], Tensor],
    setup: Callable[[Any, Any, Tensor], None],
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> None:
    """Register `stylert::<name>`, whose arguments are the fields of `call`, for every device.

    `setup(ctx, call, output)` keeps what `backward(ctx, dy)` needs; that returns a gradient or None for every field.
    """
    types = {
        Tensor: "Tensor", Tensor | None: "Tensor?", Sequence[int]: "int[]", int: "int", bool: "bool", str: "str",
        float: "float", float | None: "float?",
    }  # fmt: skip
    fields = ", ".join(f"{types[hint]} {field}" for field, hint in typing.get_type_hints(call).items())
    op = torch.library.custom_op(
        f"stylert::{name}", lambda *args: forward(call(*args)), mutates_args=(), schema=f"({fields}) -> Tensor"
    )
    op.register_fake(lambda *args: fake(call(*args)))
    op.register_autograd(backward, setup_context=lambda ctx, inputs, output: setup(ctx, call(*inputs), output))


def layout(x: Tensor) -> torch.memory_format:
    """channels_last where `x` is that and nothing else, or contiguous."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def has_kernels(x: Tensor) -> bool:
    """Whether the Triton kernels serve `x`: float16, bfloat16 or float32 on a CUDA device from compute capability 8.0.

    `STYLERT_KERNELS=0` in the environment says no, and Triton's own `TRITON_INTERPRET=1` yes also on a CPU, where its
    interpreter runs them: slow, for finding faults.
    """
    if not _HAS_TRITON or x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return False
    if x.device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1"
    return (
        x.device.type == "cuda"
        and os.environ.get("STYLERT_KERNELS") != "0"
        and torch.cuda.is_available()
        and torch.cuda.get_device_capability(x.device) >= _OLDEST_CAPABILITY
    )
