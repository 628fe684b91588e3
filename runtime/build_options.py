"""What a build may be told, and how the command line's text for it is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stylert.core.errors import InputError
from stylert.runtime.batching import BatchRange

#: `(stage, done, total)`
Progress = Callable[[str, int, int], None]

#: Least, best and largest batch of an engine when nothing else is asked for.
DEFAULT_BATCH = (1, 4, 16)
MAX_BATCH = 4096
MAX_PROFILES = 8
#: TensorRT's builder optimisation levels
MAX_LEVEL = 5
#: What an engine is to be best at: one call after the other, or many at once
LATENCY, THROUGHPUT = "latency", "throughput"

#: The first architecture whose matrix units multiply E4M3.
FP8_FROM = 89


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build_engine`. Each backend takes from them what concerns it, and refuses what it cannot give.

    `threads` is for CPUs. `target` is `current` (the device here) or an architecture such as `sm_89`. `batch` is least,
    best and largest batch of a GPU engine, or several such ranges, of which each gets an optimisation profile; CPU engines
    run any batch. `level` is TensorRT's optimisation level. The two compatibilities make engines that run on later
    versions, or on every GPU from Ampere on; `stripped` ones hold no weights and take them from the bundle when they are
    loaded. `plugins` gives TensorRT our own kernels for the two operators instead of their functions' plain form. `hint` is
    `latency` or, for OpenVINO, `throughput`.

    Raises InputError for values that no backend could mean.
    """

    threads: int | None = None
    target: str = "current"
    batch: BatchRange | tuple[BatchRange, ...] = DEFAULT_BATCH
    level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    stripped: bool = False
    plugins: bool = False
    hint: str = LATENCY

    def __post_init__(self) -> None:
        if self.target != "current" and not re.fullmatch(r"sm_[0-9]{2,3}", self.target):
            raise InputError(f"a target is current or an architecture such as sm_89, not {self.target[:40]!r}")
        if not 1 <= len(self.profiles) <= MAX_PROFILES:
            raise InputError(f"an engine has 1 to {MAX_PROFILES} batch ranges, not {len(self.profiles)}")
        for batch in self.profiles:
            if not 1 <= batch[0] <= batch[1] <= batch[2] <= MAX_BATCH:
                raise InputError(f"a batch range rises from 1 to at most {MAX_BATCH}, not {':'.join(map(str, batch))}")
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise InputError(f"a builder level is from 0 to {MAX_LEVEL}, not {self.level}")
        if self.hint not in (LATENCY, THROUGHPUT):
            raise InputError(f"a hint is {LATENCY} or {THROUGHPUT}, not {str(self.hint)[:40]!r}")

    @property
    def profiles(self) -> tuple[BatchRange, ...]:
        """The batch ranges, also where there is one."""
        return tuple([self.batch] if self.batch and isinstance(self.batch[0], int) else self.batch)

    def gpu_flags(self, precision: str) -> dict[str, Any]:
        """What every GPU engine depends on."""
        return {
            "batch": [list(batch) for batch in self.profiles],
            "level": self.level,
            "tf32": precision != "fp32",
            "version_compatible": self.version_compatible,
            "hardware_compatible": self.hardware_compatible,
        }


def check_fp8(backend: str, precision: str, architectures: Sequence[str]) -> None:
    """Raises InputError where fp8 is to run on an architecture without it."""
    without = [a for a in architectures if int(a.removeprefix("sm_")) < FP8_FROM]
    if precision == "fp8" and without:
        raise InputError(
            f"{backend}: fp8 needs Ada, Hopper or later (from sm_{FP8_FROM} on), which {', '.join(without)} is not"
        )


#: What a build does when it is told nothing.
DEFAULTS = BuildOptions()


def parse_batch_ranges(text: str) -> tuple[BatchRange, ...]:
    """`"1:4:16"` to least, best, largest; `"8"` is a batch of just 8; `"1,4:8:16"` are two ranges.

    Raises InputError on anything else.
    """
    ranges = []
    for part in text.split(","):
        numbers = part.strip().split(":")
        if len(numbers) not in (1, 3) or not all(n.isascii() and n.isdigit() and len(n) <= 4 for n in numbers):
            raise InputError(f"a batch range looks like 1:4:16, least, best and largest (got {text[:40]!r})")
        least, best, largest = map(int, numbers * 3 if len(numbers) == 1 else numbers)
        ranges.append((least, best, largest))
    return tuple(ranges)


def only_this_cpu(name: str, options: BuildOptions) -> None:
    """Raise InputError when options ask a CPU backend for what only a GPU engine has."""
    if options.target != "current":
        raise InputError(f"{name} builds for the CPU here, not for {options.target}: targets are for tensorrt-rtx")
    compatible = options.version_compatible or options.hardware_compatible
    if options.level is not None or compatible or options.stripped or options.plugins:
        raise InputError(f"{name} has no builder level, compatible or stripped engines or plugins: these are for TensorRT")
