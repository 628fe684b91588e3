"""The `torch` backend: PyTorch's own forward pass of the checkpoint behind the same `Generator`.

A bundle carries no weights that PyTorch could read, so this backend takes the checkpoint as well, and it lives here
because the runtime knows neither torch nor checkpoints.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np

from stylert.runtime.bundle import Bundle, sha256_of
from stylert.runtime.errors import BackendError, InputError, missing_extra
from stylert.runtime.generator import Generator
from stylert.runtime.images import as_uint8
from stylert.train.checkpoint import generator_module
from stylert.train.importers.imported import read_any_generator


def torch_generator(
    bundle: str | Path | Bundle, checkpoint: str | Path, device: str = "cpu", max_batch: int | None = None
) -> Generator:
    """A `Generator` that computes in PyTorch float32 on `device`, with the weights of `checkpoint`.

    It is the reference that the bundle's networks are held to; its results come back as host arrays.

    Raises BackendError without torch or without the device, and InputError when `checkpoint` is not the one that the bundle
    was exported from, or the bundle takes noise as inputs.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    checkpoint = Path(checkpoint)
    if bundle.noise == "input":
        raise InputError("this bundle takes noise as inputs; the torch backend has only the checkpoint's own noise")
    if not checkpoint.is_file():
        raise InputError(f"checkpoint {checkpoint} does not exist")
    if sha256_of(checkpoint) != bundle.provenance.get("checkpoint_sha256"):
        raise InputError(f"{checkpoint} is not the checkpoint that {bundle.path} was exported from")
    try:
        import torch
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    try:
        module = generator_module(read_any_generator(checkpoint)).eval().requires_grad_(False).to(device)
    except (RuntimeError, AssertionError) as e:  # torch's words for a device that is not there
        raise BackendError(f"PyTorch cannot use device {device!r}: {str(e).splitlines()[0]}") from None
    lock = threading.Lock()

    def mapping(inputs: dict[str, np.ndarray]) -> np.ndarray:
        z, c = torch.from_numpy(inputs["z"]).to(device), inputs.get("c")
        with torch.inference_mode(), lock:
            full = module.mapping(z, None if c is None else torch.from_numpy(c).to(device))
            w_avg = module.mapping.w_avg
            ws = w_avg + torch.from_numpy(inputs["psi"]).to(device)[:, :, None] * (full - w_avg)
        return ws.cpu().numpy()

    def synthesis(inputs: dict[str, np.ndarray]) -> np.ndarray:
        noise_mode = "none" if bundle.noise == "none" else "const"
        with torch.inference_mode(), lock:
            images = module.synthesis(torch.from_numpy(inputs["ws"]).to(device), noise_mode=noise_mode).cpu().numpy()
        return as_uint8(images) if bundle.output == "uint8" else images

    return Generator(bundle, "torch", "fp32", _Function(mapping), _Function(synthesis), None, max_batch)


class _Function:
    """A `Session` around a function, which is let go on close."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._function(inputs)

    def close(self) -> None:
        self._function = None
