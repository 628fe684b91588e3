"""The textbook network's export in 8 bits, as the documentation of ONNX Runtime and of NNCF tells a user."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np

from stylert.benchmarks.peers.candidates import Workspace, read_calibration
from stylert.core.errors import missing_extra


def quantized_by_onnxruntime(exported: Path, workspace: Workspace) -> Path:
    """The export after ONNX Runtime's `quant_pre_process` and `quantize_static`, with scales for each channel of weights.

    Everything else has its default: Q/DQ nodes, 8 bits for every operator that has them, ranges by minimum and maximum.
    """
    from stylert.runtime.backends.onnxruntime import library

    quantized = exported.with_suffix(".quantize_static.onnx")
    if quantized.exists():
        return quantized
    library()  # its telemetry is off before any of its modules is imported
    quantization = importlib.import_module("onnxruntime.quantization")
    prepared = exported.with_suffix(".prepared.onnx")
    quantization.quant_pre_process(exported, prepared)
    latents = read_calibration(workspace)

    class Latents(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self._inputs = ({"ws": latents[i : i + 1]} for i in range(len(latents)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._inputs, None)

    quantization.quantize_static(prepared, quantized, Latents(), per_channel=True)
    return quantized


def quantized_by_nncf(exported: Path, workspace: Workspace) -> Path:
    """The export after `nncf.quantize`, without its correction of biases. The result is a file of OpenVINO.

    The correction fails on this network: it writes nine values into the bias of a torgb, which has three.

    Raises:
        BackendError: NNCF or OpenVINO is not installed.
    """
    from stylert.runtime.backends.openvino import library, shared_core

    quantized = exported.with_suffix(".nncf.xml")
    if quantized.exists():
        return quantized
    model = shared_core().read_model(exported)
    try:
        import nncf
    except ImportError:
        raise missing_extra("NNCF", "nncf") from None
    latents = read_calibration(workspace)
    items = [{"ws": latents[i : i + 1]} for i in range(len(latents))]
    advanced = nncf.AdvancedQuantizationParameters(disable_bias_correction=True)
    model = nncf.quantize(model, nncf.Dataset(items), subset_size=len(items), advanced_parameters=advanced)
    library().save_model(model, quantized)
    return quantized
