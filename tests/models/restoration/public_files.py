"""Checkpoints in the layout of the public files, by the example that writes them."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

EXAMPLE = Path(__file__).parents[3] / "examples" / "seeded_restorer.py"


def example() -> ModuleType:
    """The module of the example."""
    spec = importlib.util.spec_from_file_location("seeded_restorer", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_state(network: str, resolution: int = 32, width: float = 1 / 64) -> dict[str, Any]:
    """The content of a file, with random values."""
    module, draw = example(), torch.Generator().manual_seed(random.getrandbits(32))
    content: dict[str, Any] = (module.gfpgan_state if network == "gfpgan" else module.gpen_state)(resolution, width, draw)
    return content


def public_file(folder: Path, network: str, resolution: int = 32, width: float = 1 / 64) -> Path:
    """Such a file."""
    path = folder / f"{network}.pth"
    torch.save(public_state(network, resolution, width), path)
    return path
