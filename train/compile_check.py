"""Checks whether torch.compile works on this machine. It needs a C++ compiler on a CPU, and Triton on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LENGTH = 200


def unavailable_reason(device: torch.device | str = "cpu") -> str | None:
    """The reason why torch.compile cannot work for `device`, in one line, or None where it works.

    The check compiles a small function and its gradient. The first call takes seconds; later ones use torch's cache.
    """
    x = torch.ones(8, device=device, requires_grad=True)
    try:
        torch.compile(_small_function)(x).backward()
    except Exception as e:  # each compiler raises its own types; the first line of the message names the cause
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        return lines[0].rstrip(".:")[:MAX_LENGTH] if lines else type(e).__name__
    return None


def _small_function(x: Tensor) -> Tensor:
    return (x.sin() * x).sum()
