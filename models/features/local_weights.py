"""Weights from a local file of the user: a PyTorch file or safetensors, read without running code from it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stylert.core.errors import InputError, shown_line
from stylert.core.files.inputs import open_file, stored_bytes
from stylert.core.files.safetensors_files import MAX_FILE_BYTES, check_header
from stylert.models.importers.archive import map_file, read_container
from stylert.models.importers.budget import Budget
from stylert.models.importers.errors import FormatError
from stylert.models.importers.records import FLOAT_STORAGES, StoredTensor


def read_weights(path: str | Path, network: str) -> dict[str, Tensor]:
    """Read the tensors of a state dict by name. Floating values become float32, whole numbers int64.

    Args:
        path: A safetensors file where the name ends in `.safetensors`, else a PyTorch file.
        network: Name of the network that needs them, for messages.

    Raises:
        InputError: The file is missing, damaged, would run code, or holds no named tensors.
    """
    path, kind = Path(path), f"weights for {network}: local file"
    try:
        if path.suffix == ".safetensors":
            check_header(path, InputError, kind)
            tensors = load_file(str(path))
        else:
            tensors = _read_torch(path, kind)
    except (SafetensorError, OSError, RuntimeError) as e:  # RuntimeError: PyTorch cannot map the file into memory
        raise InputError(f"{kind} {path} is not a whole safetensors file: {shown_line(str(e))}") from None
    except FormatError as e:
        raise InputError(f"{kind} {path} is no PyTorch file of plain tensors: {e}") from None
    if not tensors:
        raise InputError(f"{kind} {path} holds no named tensors: {network} takes a state dict")
    return tensors


def _read_torch(path: Path, kind: str) -> dict[str, Tensor]:
    with open_file(path, InputError, MAX_FILE_BYTES, kind) as file:
        data, budget = map_file(file), Budget(stored_bytes(file))
    content, _ = read_container(data, budget)
    stored = content.items() if isinstance(content, dict) else ()
    return {name: _tensor(value, budget) for name, value in stored if isinstance(value, StoredTensor)}


def _tensor(stored: StoredTensor, budget: Budget) -> Tensor:
    is_float = stored.storage.kind in FLOAT_STORAGES
    return torch.from_numpy(stored.array(budget) if is_float else stored.whole_numbers(budget))
