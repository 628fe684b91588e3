"""A PyTorch custom op from a named tuple of its arguments: one place for its signature, from which the schema is made."""

from __future__ import annotations

import importlib.util
import typing
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def define(
    call: Any,
    name: str,
    cpu: Callable[[Any], Tensor],
    cuda: Callable[[Any], Tensor],
    fake: Callable[[Any], Tensor],
    setup: Callable[[Any, Any], None],
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> None:
    """Register `stylert::<name>`, whose arguments are the fields of `call`.

    `setup(ctx, call)` keeps what `backward(ctx, dy)` needs; that returns a gradient or None for every field.
    """
    types = {
        Tensor: "Tensor", Tensor | None: "Tensor?", Sequence[int]: "int[]", int: "int", bool: "bool", str: "str",
        float: "float", float | None: "float?",
    }  # fmt: skip
    fields = ", ".join(f"{types[hint]} {field}" for field, hint in typing.get_type_hints(call).items())
    op = torch.library.custom_op(
        f"stylert::{name}", lambda *args: cpu(call(*args)), mutates_args=(), device_types="cpu", schema=f"({fields}) -> Tensor"
    )
    op.register_kernel("cuda")(lambda *args: cuda(call(*args)))
    op.register_fake(lambda *args: fake(call(*args)))
    op.register_autograd(backward, setup_context=lambda ctx, inputs, output: setup(ctx, call(*inputs)))


def layout(x: Tensor) -> torch.memory_format:
    """channels_last where `x` is that and nothing else, or contiguous."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def has_kernels(x: Tensor) -> bool:
    """Whether the Triton kernels serve `x`: float64 and machines without Triton take the reference."""
    return x.dtype in (torch.float16, torch.bfloat16, torch.float32) and importlib.util.find_spec("triton") is not None
