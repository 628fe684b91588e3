"""Lowering: operator nodes with function bodies to plain ONNX operators, for runtimes that do not inline them."""

from __future__ import annotations

from pathlib import Path

from stylert.runtime.errors import BundleError


def lower(source: Path, destination: Path) -> Path:
    """Write `source` with every function inlined, static branches taken and constants folded.

    ONNX Runtime's basic level does exactly that and stays within standard operators. Raises BundleError when it cannot
    read the file.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(destination)
    try:
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # ONNX Runtime's exceptions share no public base class
        raise BundleError(f"{source} is not a network that can be read: {str(e).strip().splitlines()[0]}") from None
    return destination
