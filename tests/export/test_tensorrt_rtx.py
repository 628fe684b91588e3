"""TensorRT-RTX, which compiles without a GPU, accepts every network: the referee for graphs that no GPU here can run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stylert.runtime.bundle import Bundle
from stylert.runtime.lowering import lower

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="TensorRT-RTX's wheel is for Linux here"),
]


@pytest.mark.parametrize("target", ["SM80", "SM89", "SM120"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_lowered_network_builds_for_batches_1_to_16(bundle: Bundle, tmp_path: Path, precision: str, target: str) -> None:
    import tensorrt_rtx as trt

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    plain = lower(bundle.checked_file(bundle.precision(precision).file), tmp_path / "plain.onnx")
    assert parser.parse_from_file(str(plain)), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    profile = builder.create_optimization_profile()
    shape = (bundle.num_ws, bundle.model["w_dim"])
    profile.set_shape("ws", (1, *shape), (4, *shape), (16, *shape))
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    assert engine.nbytes > 10_000
