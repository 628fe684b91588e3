"""Limited pairs of weights do not saturate, whatever the activations are, and no weaker limit would do."""

from __future__ import annotations

import platform

import numpy as np
import pytest

from stylert.core.machine import byte_products
from stylert.core.machine.byte_products import PAIR_LIMIT, byte_pairs_saturate, limit_pairs, pair_sums
from tests.vpmaddubsw import convolution


@pytest.fixture
def kernel(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-127, 128, (8, 7, 3, 3)).astype(np.int8)


def test_limited_pairs_do_not_saturate(rng: np.random.Generator, kernel: np.ndarray) -> None:
    x = rng.choice([0, 1, 128, 254, 255], (7, 6, 6)).astype(np.uint8)
    for zero_point in (0, 100, 128):
        exact, saturated = (convolution(x, kernel, zero_point, saturate) for saturate in (False, True))
        assert (exact != saturated).any()
        limited = limit_pairs(kernel)
        assert (convolution(x, limited, zero_point, False) == convolution(x, limited, zero_point, True)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_limit_is_the_greatest_that_is_safe(sign: int) -> None:
    x = np.full((2, 1, 1), 255, np.uint8)
    for total, safe in ((PAIR_LIMIT, True), (PAIR_LIMIT + 1, False)):
        kernel = sign * np.array([total - 64, 64]).reshape(1, 2, 1, 1)
        assert pair_sums(kernel).tolist() == [total]
        assert (convolution(x, kernel, 0, True) == convolution(x, kernel, 0, False)).all() == safe


def test_only_the_larger_weight_of_a_pair_that_exceeds_the_limit_changes(kernel: np.ndarray) -> None:
    limited = limit_pairs(kernel)
    assert pair_sums(limited).max() == PAIR_LIMIT
    assert np.array_equal(limit_pairs(limited), limited)
    first, second = (np.pad(k, ((0, 0), (0, 1), (0, 0), (0, 0))).astype(int) for k in (kernel, limited))
    for i in range(0, 8, 2):
        before, after = first[:, i : i + 2], second[:, i : i + 2]
        same_sign = before.prod(1) > 0
        excess = np.where(same_sign, np.maximum(np.abs(before.sum(1)) - PAIR_LIMIT, 0), 0)
        assert (np.abs(before - after).sum(1) == excess).all()
        assert (np.abs(before - after).min(1) == 0).all()
        assert (before * after >= 0).all()


@pytest.mark.parametrize(
    ("machine", "sets", "saturate"),
    [
        ("x86_64", ["avx2"], True),
        ("x86_64", ["avx2", "avx512f"], True),
        ("AMD64", None, True),
        ("x86_64", ["avx2", "avx_vnni"], False),
        ("x86_64", ["avx2", "avx512f", "avx512_vnni"], False),
        ("aarch64", ["asimd"], False),
        ("arm64", None, False),
    ],
)
def test_the_processor_decides(monkeypatch: pytest.MonkeyPatch, machine: str, sets: list[str] | None, saturate: bool) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(byte_products, "instruction_sets", lambda: sets)
    assert byte_pairs_saturate() == saturate
