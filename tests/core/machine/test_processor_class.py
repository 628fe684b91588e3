"""A processor belongs to the first class whose instruction sets it has."""

from __future__ import annotations

import pytest

from stylert.core.machine.host import INSTRUCTION_SETS
from stylert.core.machine.processor_class import AMX, ARM, AVX2, AVX512_VNNI, CLASSES, OTHER, ProcessorClass, processor_class


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"], AMX),  # Xeon, Sapphire Rapids
        (["avx2", "avx512f", "avx512_vnni", "avx512_bf16"], AVX512_VNNI),  # EPYC, Zen 4
        (["avx2", "avx512f"], AVX2),  # Xeon, Skylake
        (["avx2", "avx_vnni"], AVX2),  # Core, Alder Lake
        (["avx2"], AVX2),  # EPYC, Zen 3
        (["asimd", "asimddp", "asimdhp"], ARM),  # Cortex-A76
        (["asimd"], OTHER),  # Cortex-A72
        ([], OTHER),
    ],
)
def test_known_processors_have_their_class(sets: list[str], expected: ProcessorClass) -> None:
    assert processor_class(sets) is expected


def test_the_system_can_report_every_set_that_a_class_needs() -> None:
    assert {name for row in CLASSES for name in row.needs} <= set(INSTRUCTION_SETS)


def test_a_system_that_lists_no_sets_has_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylert.core.machine.processor_class.instruction_sets", lambda: None)
    assert processor_class() is OTHER
