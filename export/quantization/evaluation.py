"""Networks run for calibration on ONNX Runtime, and for the images by which a plan is judged on the backend that ships."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from stylert.core.files.temporary import temporary_folder
from stylert.runtime.backends import backend
from stylert.runtime.backends.base import LoadOptions
from stylert.runtime.backends.onnxruntime import library, session_options


def cpu_session(network: onnx.ModelProto | Path) -> Any:
    """ONNX Runtime's `InferenceSession` of a network, on the CPU."""
    source = network if isinstance(network, Path) else network.SerializeToString()
    return library().InferenceSession(source, session_options(None), providers=["CPUExecutionProvider"])


def synthesize(model: onnx.ModelProto, latents: Sequence[np.ndarray]) -> np.ndarray:
    """The images of a synthesis network, uint8 `[N, H, W, C]`, one batch of ws `[n, num_ws, w_dim]` after another."""
    session = cpu_session(model)
    return np.concatenate([session.run(["image"], {"ws": ws})[0] for ws in latents])


def runs_network_files(backend_name: str, precision: str) -> bool:
    """Whether a backend runs ONNX files of a precision on this machine. Others are judged on ONNX Runtime."""
    chosen = backend(backend_name)
    usable = precision in chosen.facts.precisions and not chosen.facts.needs_engine
    return usable and chosen.unavailable_reason() is None


def synthesize_on(backend_name: str, precision: str, model: onnx.ModelProto, latents: Sequence[np.ndarray]) -> np.ndarray:
    """As `synthesize`, on the backend that the network is for.

    Raises:
        BackendError: The backend cannot run this network.
    """
    with temporary_folder("evaluation") as folder:
        file = folder / "network.onnx"
        file.write_bytes(model.SerializeToString())
        with closing(backend(backend_name).load(file, LoadOptions(precision))) as session:
            return np.concatenate([session.run({"ws": ws}) for ws in latents])
