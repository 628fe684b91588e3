"""Lowering: operator nodes with function bodies to plain ONNX operators, for runtimes that do not inline them."""

from __future__ import annotations

from pathlib import Path

from stylert.runtime.errors import BundleError, OutputError


def lower(source: Path, destination: Path) -> Path:
    """Write `source` with every function inlined, static branches taken and constants folded.

    ONNX Runtime's basic level does exactly that and stays within standard operators. Raises BundleError when it cannot
    read the file, and OutputError when the disk is full.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(destination)
    try:
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # ONNX Runtime's exceptions share no public base class
        reason = str(e).strip().splitlines()[0]
        if could_not_write(reason):
            raise OutputError(f"cannot write {destination}: is the disk full?") from None
        raise BundleError(f"{source} is not a network that can be read: {reason}") from None
    return destination


def could_not_write(reason: str) -> bool:
    """Whether ONNX Runtime's message means that its output file failed; it blames the network for a full disk."""
    return "serialization failed" in reason
