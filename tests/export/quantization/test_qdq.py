"""Q/DQ nodes round as their definition says, also with a factor for each channel of each sample."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator

from stylert.export.graph import GraphBuilder
from stylert.export.network_plan import QuantParams
from stylert.export.quantization.qdq import ChannelFactor, QdqBuilder


def test_quantisation_takes_any_factor(rng: np.random.Generator) -> None:
    """A negative factor changes the sign of a channel. A factor of zero has an infinite scale and gives zeros."""
    x, factor = rng.standard_normal((2, 5, 4, 4)).astype(np.float32), rng.standard_normal((2, 5)).astype(np.float32)
    factor[0, 2], factor[1, 4], x[0, 2, 0, 0] = 0, 1e-42, 0
    g = GraphBuilder("rounding")
    g.input("x", ["N", 5, 4, 4])
    g.input("factor", ["N", 5])
    params = QuantParams(0.02, 100, symmetric=False)
    qdq, channel_factor = QdqBuilder(g, np.dtype(np.float32)), ChannelFactor("factor", 5, (4, 4))
    quantized = qdq.quantize("x", params, "in", channel_factor)
    g.node("Cast", [quantized], "q", to=onnx.TensorProto.FLOAT)
    g.output("q", ["N", 5, 4, 4])
    g.output(qdq.dequantize(quantized, params, "back", channel_factor), ["N", 5, 4, 4])
    feeds = {"x": x, "factor": factor}
    expected = np.clip(np.rint(x.astype(np.float64) * factor[:, :, None, None] / 0.02) + 100, 0, 255)
    for levels, back in (
        ort.InferenceSession(g.model().SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds),
        ReferenceEvaluator(g.model()).run(None, feeds),
    ):
        assert np.abs(levels - expected).max() <= 1  # a tie may go to either side
        assert (levels != expected).mean() < 0.02
        np.testing.assert_allclose(back, (levels - 100) * 0.02 * factor[:, :, None, None], rtol=1e-5, atol=1e-30)
