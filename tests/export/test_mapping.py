"""The exported mapping network computes what the PyTorch network computes."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.export.mapping import mapping_model
from tests.export.networks import assert_close, random_network, run


@settings(max_examples=12, deadline=None)
@given(
    c_dim=st.sampled_from([0, 1, 4]),
    layers=st.integers(1, 8),
    n=st.integers(1, 5),
    psi=st.floats(-1, 2),
    cutoff=st.integers(0, 6),
)
def test_mapping_equals_pytorch(c_dim: int, layers: int, n: int, psi: float, cutoff: int) -> None:
    weights, generator = random_network(c_dim=c_dim, mapping_layers=layers)
    z = np.random.standard_normal((n, 24)).astype(np.float32)
    c = np.random.standard_normal((n, c_dim)).astype(np.float32) if c_dim else None
    factors = np.ones((n, 6), np.float32)
    factors[:, :cutoff] = psi
    ws = run(mapping_model(weights), z=z, psi=factors, **({"c": c} if c_dim else {}))
    expected = generator.float().mapping(torch.from_numpy(z), None if c is None else torch.from_numpy(c), psi, cutoff)
    assert_close(ws, expected.numpy(), 1e-4)
