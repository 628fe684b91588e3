"""16-bit types are used where a device has instructions for them."""

from __future__ import annotations

import pytest

from stylert.train.configuration.half_precision import fastest_half


@pytest.mark.parametrize(
    ("sets", "bf16"),
    [
        (["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"], True),  # Xeon, Sapphire Rapids
        (["avx2", "avx512f", "avx512_vnni", "avx512_bf16"], True),  # EPYC, Zen 4
        (["avx2", "avx512f", "avx512_vnni"], False),  # Xeon, Cascade Lake
        (["avx2"], False),  # EPYC, Zen 3
        (["asimd", "asimddp", "asimdhp", "i8mm", "bf16"], True),  # Neoverse V1
        (["asimd", "asimddp"], False),  # Cortex-A76
        (None, False),  # the system does not tell
    ],
)
def test_a_cpu_trains_in_bfloat16_only_where_it_has_its_products(sets, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylert.train.configuration.half_precision.instruction_sets", lambda: sets)
    assert {half: fastest_half(half, "cpu") for half in ("none", "fp16", "bf16")} == {
        "none": "none",
        "fp16": "none",
        "bf16": "bf16" if bf16 else "none",
    }
    assert {half: fastest_half(half, "cuda:1") for half in ("none", "fp16", "bf16")} == {h: h for h in ("none", "fp16", "bf16")}
