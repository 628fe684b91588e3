"""Lowering: turns a network with stylert's operators into one of plain ONNX operators.

It is for the runtimes that do not inline the operators' functions themselves.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stylert.core.errors import BackendError, BundleError, OutputError, missing_extra, shown_line
from stylert.runtime.network_files import MAX_BYTES, checked_model

if TYPE_CHECKING:
    import onnx

#: onnxscript's rewriting rules keep their matches in themselves, and all threads share them.
_OPTIMISING = threading.Lock()


def lower(
    source: Path, destination: Path, batch: int | None = None, rewrite: Callable[[onnx.ModelProto], object] | None = None
) -> Path:
    """Inline every function of an ONNX file, take its static branches and fold its constants.

    ONNX Runtime could do this too, but it writes float16 convolutions as float32 between casts. Here types stay the same.

    Args:
        source: The ONNX file to read.
        destination: The ONNX file to write.
        batch: Fixes the batch of the network; None keeps it dynamic.
        rewrite: Changes the lowered network in place before it is written.

    Returns:
        `destination`.

    Raises:
        BundleError: `source` cannot be read or lowered, has a node that our operators do not define, reads other files, or
            would become larger than 2 GiB.
        OutputError: `destination` cannot be written.
        BackendError: onnxscript is not installed, or there is too little memory.
    """
    import onnx

    try:
        from onnxscript import optimizer
    except ImportError:
        raise missing_extra("onnxscript", "openvino") from None
    model = checked_model(source)
    try:
        onnx.checker.check_model(model)  # the optimiser would write a line for each fault into the log, and go on
        if batch is not None:
            for tensor in (*model.graph.input, *model.graph.output):
                tensor.type.tensor_type.shape.dim[0].dim_value = batch
            del model.graph.value_info[:]  # these shapes still have the dynamic batch
        with _OPTIMISING:
            lowered = optimizer.optimize(model)
        if rewrite is not None:
            rewrite(lowered)
        size = lowered.ByteSize()
    except MemoryError as e:
        raise BackendError(f"not enough memory to lower {source}") from e
    except Exception as e:  # of the checker, or of the optimiser for a network that is not valid all the same
        raise BundleError(f"{source} cannot be lowered: {shown_line(str(e)) or type(e).__name__}") from e
    if size > MAX_BYTES:
        raise BundleError(f"{source} in plain operators is larger than 2 GiB, which no ONNX file can be")
    try:
        onnx.save(lowered, destination)
    except OSError as e:
        raise OutputError(f"cannot write {destination}: {e.strerror or e}") from None
    return destination
