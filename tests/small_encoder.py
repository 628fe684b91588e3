"""A small encoder network in a bundle, which needs neither torch nor training: ws are a matrix times the pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stylert.runtime.bundle import Bundle
from stylert.runtime.bundle_files import EncoderEntry, file_entries
from tests.draws import draws_of


def encoder_matrix(bundle: Bundle) -> np.ndarray:
    """The matrix `[R * R * C, num_ws * w_dim]` of `add_small_encoder`, for pixels from 0 to 255."""
    pixels = bundle.resolution**2 * bundle.model["img_channels"]
    shape = (pixels, bundle.num_ws * bundle.model["w_dim"])
    return draws_of("small encoder").standard_normal(shape).astype(np.float32) / 5000


def add_small_encoder(bundle: Bundle, outputs: str = "ws") -> Bundle:
    """Write the network into a bundle, which is changed, as its fp32 encoder. `outputs` is the name of its output."""
    side, channels, numbers = bundle.resolution, bundle.model["img_channels"], (bundle.num_ws, bundle.model["w_dim"])
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["rows"]),
        helper.make_node("MatMul", ["rows", "matrix"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], [outputs]),
    ]
    constants = {"matrix": encoder_matrix(bundle), "shape": np.array([-1, *numbers], np.int64)}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", side, side, channels])],
        [helper.make_tensor_value_info(outputs, TensorProto.FLOAT, ["N", *numbers])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    file = "encoder.fp32.small.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(Path(bundle.path) / file))
    entry = EncoderEntry(file, {"encoder_sha256": "ab" * 32}, {"psnr_db": 20.0})
    changed = replace(bundle, encoder={"fp32": entry}, files=bundle.files | file_entries(bundle.path, [file]))
    changed.save()
    return Bundle.load(bundle.path)
