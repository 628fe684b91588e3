"""16-bit types save time on GPUs, and on CPUs that have instructions for bfloat16."""

from __future__ import annotations

from stylert.core.machine.host import instruction_sets

#: Instruction sets of CPUs (`host.INSTRUCTION_SETS`) with products of bfloat16.
BFLOAT16_SETS = ("avx512_bf16", "amx_bf16", "bf16")


def fastest_half(half: str, device: str) -> str:
    """`half` where it saves time on a device, else `none`."""
    return half if has_instructions(half, device) else "none"


def has_instructions(half: str, device: str) -> bool:
    """Whether a device computes convolutions in this type by instructions of its own.

    A CPU without them converts number by number, and a training step takes 10 to 15 times as long as in float32: see
    docs/decisions/train-half-precision.md. A GPU counts as having both types, and no CPU as having float16.

    Args:
        half: `TrainConfig.half`: none, fp16 or bf16.
        device: Device of the networks, such as `cpu` or `cuda:1`.
    """
    if half == "none" or device.partition(":")[0] != "cpu":
        return True
    return half == "bf16" and any(name in BFLOAT16_SETS for name in instruction_sets() or ())
