"""The graph builder refuses what would be lost or cannot be stored."""

from __future__ import annotations

import numpy as np
import pytest

from stylert.core.errors import CheckpointError
from stylert.export import graph
from stylert.export.graph import GraphBuilder


def test_two_values_under_one_name_are_an_error_and_the_same_value_is_not() -> None:
    g = GraphBuilder("g")
    g.weight("w", np.float32([1, 2]))
    g.weight("w", np.float32([1, 2]))
    for other in (np.float32([1, 3]), np.float32([[1, 2]]), np.float64([1, 2])):
        with pytest.raises(ValueError, match="two initializers named w"):
            g.weight("w", other)


def test_a_network_beyond_the_size_of_an_onnx_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    g = GraphBuilder("synthesis")
    g.output(g.node("Add", [g.input("x", ["N", 256]), g.weight("w", np.zeros(256, np.float32))], "y"), ["N", 256])
    assert g.model().graph.initializer[0].name == "w"
    monkeypatch.setattr(graph, "MAX_WEIGHT_BYTES", 1023)
    with pytest.raises(CheckpointError, match=r"synthesis network has .* GiB; an ONNX file holds 2 GiB"):
        g.model()
