"""Weights that a user brings in a file of their own: PyTorch's format or safetensors, read without running anything."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stylert.core.errors import InputError


def read_weights(path: str | Path, what: str) -> dict[str, Tensor]:
    """The tensors of a state dict by name. Raises InputError, naming `what` they are wanted for, when there are none."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"the weights for {what} are wanted in a local file: {path} is none")
    try:
        # weights_only: a file of tensors is read, anything that would run code is refused.
        found = load_file(str(path)) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except SafetensorError as e:
        raise InputError(f"{path} is not a whole safetensors file: {e}") from None
    except Exception:  # damaged archives raise many kinds, pickles with code another
        raise InputError(
            f"{path} cannot be read as a PyTorch file of plain tensors, which the weights for {what} are"
        ) from None
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, dict) else {}
    if not tensors:
        raise InputError(f"{path} holds no named tensors: {what} takes a state dict")
    return tensors


def digest_of_file(path: str | Path) -> str:
    """sha256 of the bytes."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
