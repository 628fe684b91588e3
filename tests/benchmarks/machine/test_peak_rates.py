"""Peak rates are those of real matrix products and copies."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from stylert.benchmarks.machine import peak_rates
from stylert.benchmarks.machine.peak_rates import highest_rates, measure_peak_rates
from stylert.core.roofline import PeakRates
from tests.draws import fresh


def test_every_precision_has_a_rate_and_its_source() -> None:
    rates = measure_peak_rates(threads=1, seconds=0.001, size=32, copy_bytes=2**16)
    assert set(rates.tflops) == {"float32", "bfloat16", "int8"}
    assert min(*rates.tflops.values(), rates.bandwidth) > 0
    for word in ("fp32", "bf16 OpenVINO", "int8", "copy NumPy"):
        assert word in rates.source


@pytest.mark.parametrize("model", [peak_rates._float_product, peak_rates._int8_product])
def test_the_models_compute_their_matrix_product(model: object) -> None:
    a = fresh().uniform(-3.5, 3.5, (32, 32)).astype(np.float32)
    data = model(32)  # type: ignore[operator]
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    # The second operand is part of the file.
    from onnx import load_from_string, numpy_helper

    constants = {t.name: numpy_helper.to_array(t) for t in load_from_string(data).graph.initializer}
    b = constants["w"] if "w" in constants else constants["w_q"] * 0.01
    expected = (a.astype(np.float64) @ b).max()
    # In 8 bits: half a step of the result, which is 1, and half an input's step of 0.03 in 32 products of at most 0.63.
    assert session.run(None, {"a": a})[0] == pytest.approx(expected, abs=0.9 if "w_q" in constants else 1e-3)


def test_the_rate_is_of_the_fastest_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now, durations = 0.0, iter([9.0, 3.0, 0.5, 1.0])

    def run() -> None:
        nonlocal now
        now += next(durations)

    monkeypatch.setattr(peak_rates, "time", SimpleNamespace(perf_counter=lambda: now))
    assert peak_rates._fastest_seconds(run, 0.0) == 0.5


def test_the_highest_of_several_measurements_counts() -> None:
    one = PeakRates({"float32": 1.0, "int8": 5.0}, 20.0, "measured")
    highest = highest_rates([one, PeakRates({"float32": 2.0, "int8": 4.0}, 10.0, "measured")])
    assert highest is not None
    assert (highest.tflops, highest.bandwidth) == ({"float32": 2.0, "int8": 5.0}, 20.0)
    assert "2 moments" in highest.source
    assert highest_rates([one]) == one
    assert highest_rates([]) is None
