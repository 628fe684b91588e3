"""Whether torch.compile can make code on this machine: it needs a compiler of its own, or Triton."""

from __future__ import annotations

import torch
from torch import Tensor


def unavailable_reason(device: torch.device | str = "cpu") -> str | None:
    """Why torch.compile cannot make code for `device` here, in one line; None where it can.

    Compiles a function of a few operations and its gradient: seconds at the first time, and from torch's cache afterwards.
    """
    x = torch.ones(8, device=device, requires_grad=True)
    try:
        torch.compile(_few_operations)(x).backward()
    except Exception as e:  # of as many kinds as there are tools that can fail; their messages begin with what is wrong
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        return lines[0].rstrip(".:")[:200] if lines else type(e).__name__
    return None


def _few_operations(x: Tensor) -> Tensor:
    return (x.sin() * x).sum()
