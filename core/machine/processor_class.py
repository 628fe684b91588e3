"""Classes of processors that want different graph forms: one row per class, the first that fits."""

from __future__ import annotations

from dataclasses import dataclass

from stylert.core.machine.host import instruction_sets


@dataclass(frozen=True)
class ProcessorClass:
    """A class of processors.

    Attributes:
        name: Its name, as `stylert doctor` and `engine.json` show it.
        needs: Instruction sets that all its processors have (`host.INSTRUCTION_SETS`).
        description: What its arithmetic offers.
    """

    name: str
    needs: tuple[str, ...]
    description: str


AMX = ProcessorClass("amx", ("amx_int8",), "matrix tiles for 8 bits and bfloat16, 512-bit vectors for float32")
AVX512_VNNI = ProcessorClass("avx512-vnni", ("avx512_vnni",), "512-bit vectors, exact products of bytes")
AVX2 = ProcessorClass("avx2", ("avx2",), "256-bit vectors")
ARM = ProcessorClass("arm-dotprod-fp16", ("asimddp", "asimdhp"), "128-bit vectors, products of bytes, float16 arithmetic")
OTHER = ProcessorClass("other", (), "instruction sets unknown, or without wide vectors")

CLASSES = (AMX, AVX512_VNNI, AVX2, ARM, OTHER)


def processor_class(sets: list[str] | None = None) -> ProcessorClass:
    """The class of a processor with these instruction sets, by default of this one."""
    have = set(instruction_sets() or []) if sets is None else set(sets)
    return next(row for row in CLASSES if have.issuperset(row.needs))
