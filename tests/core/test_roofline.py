"""The roofline takes the longer of arithmetic and memory traffic."""

from __future__ import annotations

import numpy as np
import pytest

from stylert.core.roofline import PeakRates, lower_bound_ms


def test_a_second_of_work_is_a_thousand_milliseconds() -> None:
    rates = PeakRates({"float16": 2.0}, 3.0, "made up")
    assert lower_bound_ms(2e12, 0, "float16", rates) == pytest.approx(1000)
    assert lower_bound_ms(0, 3e9, "float16", rates) == pytest.approx(1000)


def test_the_longer_of_arithmetic_and_traffic_counts(rng: np.random.Generator) -> None:
    for _ in range(20):
        tflops, bandwidth, flops, moved = rng.uniform(0.1, 1e4, 4)
        rates = PeakRates({"int8": tflops}, bandwidth, "made up")
        both = lower_bound_ms(flops, moved, "int8", rates)
        assert both == max(lower_bound_ms(flops, 0, "int8", rates), lower_bound_ms(0, moved, "int8", rates))


def test_a_format_without_a_rate_is_refused() -> None:
    with pytest.raises(KeyError):
        lower_bound_ms(1.0, 1.0, "fp8", PeakRates({"float16": 1.0}, 1.0, "made up"))
