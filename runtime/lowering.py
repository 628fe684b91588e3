"""Lowering: operator nodes with function bodies to plain ONNX operators, for runtimes that do not inline them."""

from __future__ import annotations

from pathlib import Path

from stylert.core.errors import BundleError, OutputError, missing_extra


def lower(source: Path, destination: Path, batch: int | None = None) -> Path:
    """Write `source` with every function inlined, static branches taken and constants folded, for one `batch` or for any.

    Types stay as they are: ONNX Runtime, which could do the rest, writes float16 convolutions as float32 between casts.
    Raises BundleError when the file cannot be read, and OutputError when the other cannot be written.
    """
    import onnx

    try:
        from onnxscript import optimizer
    except ImportError:
        raise missing_extra("onnxscript", "openvino") from None
    try:
        model = onnx.load(source)
    except Exception as e:  # protobuf's exceptions share no public base class
        raise BundleError(f"{source} is not a network that can be read: {e}") from None
    if batch is not None:
        for tensor in (*model.graph.input, *model.graph.output):
            tensor.type.tensor_type.shape.dim[0].dim_value = batch
        del model.graph.value_info[:]  # they name the batch that was open
    try:
        onnx.save(optimizer.optimize(model), destination)
    except OSError as e:
        raise OutputError(f"cannot write {destination}: {e.strerror or e}") from None
    return destination
