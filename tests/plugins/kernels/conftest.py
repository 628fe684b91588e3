"""The kernels run here in Triton's interpreter, on CPU tensors.

Triton decides between interpreting and compiling when a kernel is defined, so the variable is set while the kernels are
imported. It is taken back for the rest of the session, and set again for each test here, because Triton imports parts of
itself late. A test that compiles kernels does so in a process of its own.
"""

import os
from collections.abc import Callable

import pytest
import torch

_before = os.environ.get("TRITON_INTERPRET")
os.environ["TRITON_INTERPRET"] = "1"
import stylert.plugins.kernels.bias_act  # noqa: E402
import stylert.plugins.kernels.modulated_conv2d  # noqa: E402
import stylert.plugins.kernels.upfirdn2d  # noqa: E402, F401

if _before is None:
    del os.environ["TRITON_INTERPRET"]
else:
    os.environ["TRITON_INTERPRET"] = _before

#: Relative to the largest value of the float64 reference.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=["f32", "f16", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def poisoned() -> Callable[..., torch.Tensor]:
    """Allocates an output full of NaN, so that an element that is not written shows."""

    def allocate(*shape: int, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
        return torch.full(shape, float("nan"), dtype=dtype).contiguous(memory_format=layout)

    return allocate


@pytest.fixture
def assert_parity() -> Callable[..., None]:
    def check(
        y: torch.Tensor, reference: torch.Tensor, dtype: torch.dtype, what: object = "",
        unclamped: torch.Tensor | None = None, terms: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        assert y.shape == reference.shape
        assert torch.isfinite(y).all(), f"{int((~torch.isfinite(y)).sum())} elements were not written: {what}"
        # A clamp bounds a value and not its rounding, which goes with what the value was before.
        scale = (reference if unclamped is None else unclamped).abs().max().clamp(min=1e-3)
        # Nor does a sum whose terms cancel: what style, weight and result round is at most a fifth of a tolerance of their sizes.
        if terms is not None:
            scale = torch.maximum(scale, 0.2 * terms.max())
        error = ((y.double() - reference).abs().max() / scale).item()
        assert error <= TOLERANCE[dtype], f"relative error {error}: {what}"

    return check
