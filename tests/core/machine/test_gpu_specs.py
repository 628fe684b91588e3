"""Data sheets agree with each other, and sustained rates stay below them."""

from __future__ import annotations

import pytest

from stylert.core.machine.gpu_specs import GPU_SPECS, GpuSpec

SPECS = pytest.mark.parametrize("spec", GPU_SPECS.values(), ids=lambda spec: spec.name)


@SPECS
def test_narrower_formats_are_at_least_as_fast(spec: GpuSpec) -> None:
    assert spec.tflops["float32"] < spec.tflops["float16"] == spec.tflops["bfloat16"] < spec.tflops["int8"]
    assert spec.tflops["float16"] < spec.tflops.get("fp8", spec.tflops["int8"]) <= spec.tflops["int8"]


@SPECS
def test_the_float32_rate_is_that_of_all_lanes_at_about_the_boost_clock(spec: GpuSpec) -> None:
    lanes = 64 if spec.name.startswith("A100") else 128
    assert spec.tflops["float32"] == pytest.approx(spec.sms * lanes * 2 * spec.clock_ghz / 1e3, rel=0.15)


@SPECS
def test_sustained_rates_have_a_source_and_never_exceed_the_data_sheet(spec: GpuSpec) -> None:
    sheet, sustained = spec.data_sheet_rates(), spec.sustained_rates()
    assert sheet.tflops.keys() == sustained.tflops.keys()
    assert all(rate <= sheet.tflops[dtype] for dtype, rate in sustained.tflops.items())
    assert sustained.bandwidth <= sheet.bandwidth
    assert spec.name in sheet.source
    assert bool(spec.sustained_source) == (sustained.source != sheet.source) == bool(spec.sustained_tflops)


def test_fp8_begins_with_compute_capability_8_9() -> None:
    assert {architecture for architecture, spec in GPU_SPECS.items() if "fp8" in spec.tflops} == {89, 90, 120}


def test_half_precision_of_an_h100_has_one_data_sheet_rate_and_one_measured_rate() -> None:
    spec = GPU_SPECS[90]
    assert spec.data_sheet_rates().tflops["float16"] == 989
    assert spec.sustained_rates().tflops["float16"] == 790
    assert "float16" in spec.sustained_rates().source
