"""Lowering: turns a network with stylert's operators into one of plain ONNX operators.

It is for the runtimes that do not inline the operators' functions themselves.
"""

from __future__ import annotations

from pathlib import Path

from stylert.core.errors import BundleError, OutputError, missing_extra


def lower(source: Path, destination: Path, batch: int | None = None) -> Path:
    """Inline every function of an ONNX file, take its static branches and fold its constants.

    ONNX Runtime could do this too, but it writes float16 convolutions as float32 between casts. Here types stay the same.

    Args:
        source: The ONNX file to read.
        destination: The ONNX file to write.
        batch: Fixes the batch of the network; None keeps it dynamic.

    Returns:
        `destination`.

    Raises:
        BundleError: `source` cannot be read.
        OutputError: `destination` cannot be written.
        BackendError: onnxscript is not installed.
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
        del model.graph.value_info[:]  # these shapes still have the dynamic batch
    try:
        onnx.save(optimizer.optimize(model), destination)
    except OSError as e:
        raise OutputError(f"cannot write {destination}: {e.strerror or e}") from None
    return destination
