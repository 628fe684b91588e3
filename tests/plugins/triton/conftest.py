"""The tests of the kernels run them in Triton's interpreter, on CPU tensors.

`tests/conftest.py` defines the kernels for the interpreter. The variable is set again for each test, because Triton
imports some of its parts late.
"""

from collections.abc import Callable

import pytest
import torch

#: Allowed error, relative to the largest value of the float64 reference.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@pytest.fixture(autouse=True)
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=["f32", "f16", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def poisoned() -> Callable[..., torch.Tensor]:
    """Allocates an output full of NaN. An element that the kernel does not write stays NaN."""

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
        # A clamp bounds a value, but the rounding error has the size of the unclamped value.
        scale = (reference if unclamped is None else unclamped).abs().max().clamp(min=1e-3)
        # The terms of a sum may cancel. Rounding of style, weight and result is at most a fifth of the tolerance of
        # their sizes.
        if terms is not None:
            scale = torch.maximum(scale, 0.2 * terms.max())
        error = ((y.double() - reference).abs().max() / scale).item()
        assert error <= TOLERANCE[dtype], f"relative error {error}: {what}"

    return check
