"""The ONNX networks of an encoder: `images` uint8 `[N, R, R, C]` to `ws` float32 `[N, num_ws, w_dim]`.

PyTorch's exporter writes the networks of floating-point numbers, and ONNX Runtime's tools quantise, because an encoder has no layers of
our own.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from stylert.core.errors import missing_extra
from stylert.runtime.backends.onnxruntime import quantization
from stylert.runtime.steering.encoder_file import EncoderWeights

if TYPE_CHECKING:
    from torch import Tensor

OPSET = 18
#: Pictures of one call, at most. PyTorch's exporter wants a limit.
MOST_PICTURES = 4096
#: Pictures of one call while the ranges of values are observed
BATCH = 8
#: Tells ONNX Runtime's quantiser that nothing is left to fold.
PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")


def float_network(encoder: EncoderWeights, precision: str) -> onnx.ModelProto:
    """The network of an encoder in `fp32` or `fp16`. The same encoder gives the same network.

    Raises:
        InputError: The encoder is damaged.
        BackendError: PyTorch, EfficientNet-Lite0 or onnxscript is not installed.
    """
    try:
        import onnxscript  # noqa: F401 - PyTorch's exporter needs it
        import torch

        from stylert.models.latent_encoder import EncoderConfig, encoder_module
    except ImportError:
        raise missing_extra("PyTorch with onnxscript", "metrics,openvino") from None

    dtype = torch.float16 if precision == "fp16" else torch.float32

    class Pictures(torch.nn.Module):
        """The encoder, for pictures as files hold them."""

        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__()
            self.network = network.to(dtype)

        def forward(self, images: Tensor) -> Any:
            return self.network(((images.permute(0, 3, 1, 2).float() - 127.5) / 127.5).to(dtype)).float()

    config = EncoderConfig(encoder.resolution, encoder.img_channels, encoder.num_ws, encoder.w_dim)
    module = Pictures(encoder_module(config, encoder.arrays)).eval()
    images = torch.zeros(2, config.resolution, config.resolution, config.img_channels, dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about every optional package that is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["ws"],
            dynamic_shapes={"images": {0: torch.export.Dim("N", min=1, max=MOST_PICTURES)}},
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _forget_source(model)
    return model


def write_byte_network(model: onnx.ModelProto, file: Path, images: np.ndarray) -> None:
    """Write the network whose convolutions and layers of the heads are computed from bytes.

    Args:
        model: The float32 network.
        file: The file.
        images: uint8 `[N, R, R, C]`, which set the steps.
    """
    tools = quantization()

    class Pictures(tools.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.batches = iter(np.split(images, range(BATCH, len(images), BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    entry = prepared.metadata_props.add()
    entry.key, entry.value = PREPARED
    tools.quantize_static(
        prepared,
        str(file),
        Pictures(),
        quant_format=tools.QuantFormat.QDQ,
        per_channel=True,
        activation_type=tools.QuantType.QUInt8,
        weight_type=tools.QuantType.QInt8,
        # The last product, from principal components to ws. OpenVINO refuses it in 8 bits.
        nodes_to_exclude=[node.name for node in model.graph.node if node.op_type == "MatMul"],
    )


def _forget_source(model: onnx.ModelProto) -> None:
    """Remove the places in source files from which each node comes: they name folders of this machine."""
    del model.metadata_props[:]
    graph = model.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
