"""Networks run on ONNX Runtime's CPU provider, for calibration and for the images by which a plan is judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from stylert.runtime.backends.onnxruntime import library

#: ONNX Runtime reports errors only; a quantised graph that it cannot optimise is no news to the user.
LOG_ERRORS = 3


def cpu_session(network: onnx.ModelProto | Path) -> Any:
    """ONNX Runtime's `InferenceSession` of a network, on the CPU."""
    ort = library()
    options = ort.SessionOptions()
    options.log_severity_level = LOG_ERRORS
    source = network if isinstance(network, Path) else network.SerializeToString()
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def synthesize(model: onnx.ModelProto, latents: Sequence[np.ndarray]) -> np.ndarray:
    """The images of a synthesis network, uint8 `[N, H, W, C]`, one batch of ws `[n, num_ws, w_dim]` after another."""
    session = cpu_session(model)
    return np.concatenate([session.run(["image"], {"ws": ws})[0] for ws in latents])
