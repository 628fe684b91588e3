"""Checkpoints in the layout of the public files, by the example that draws their values."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tests.draws import fresh

EXAMPLE = Path(__file__).parents[3] / "examples" / "seeded_restorer.py"


def example() -> ModuleType:
    """The module of the example."""
    spec = importlib.util.spec_from_file_location("seeded_restorer", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_state(network: str, resolution: int = 32, width: float = 1 / 64) -> dict[str, Any]:
    """The content of a file: of GFP-GAN an entry with the state dict, of GPEN the state dict itself."""
    module = example()
    state = (module.gfpgan_state if network == "gfpgan" else module.gpen_state)(resolution, width, fresh())
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    return {"params_ema": tensors} if network == "gfpgan" else tensors


def public_file(folder: Path, network: str, resolution: int = 32, width: float = 1 / 64) -> Path:
    """Such a file."""
    path = folder / f"{network}.pth"
    torch.save(public_state(network, resolution, width), path)
    return path
