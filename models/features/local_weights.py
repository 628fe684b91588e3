"""Weights from a local file of the user: a PyTorch file or safetensors, read without running code from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stylert.core.errors import InputError


def read_weights(path: str | Path, network: str) -> dict[str, Tensor]:
    """Read the tensors of a state dict by name.

    Args:
        path: A safetensors file where the name ends in `.safetensors`, else a PyTorch file.
        network: Name of the network that needs them, for messages.

    Raises:
        InputError: The file is missing, damaged, would run code, or holds no named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"the weights for {network} must be a local file: {path} is not a file")
    try:
        # weights_only refuses every pickle that would run code.
        content = load_file(str(path)) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except SafetensorError as e:
        raise InputError(f"{path} is not a whole safetensors file: {e}") from None
    except Exception:  # torch.load raises many types, one for each kind of damage
        raise InputError(
            f"{path} cannot be read: the weights for {network} must be a PyTorch file of plain tensors, or safetensors"
        ) from None
    tensors = {}
    if isinstance(content, dict):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path} holds no named tensors: {network} takes a state dict")
    return tensors


def file_digest(path: str | Path) -> str:
    """sha256 of the bytes of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
