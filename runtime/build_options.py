"""The options of `stylert build`, and the text form of batch ranges on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stylert.core.errors import InputError, shown
from stylert.core.machine.host import THREADS_PER_CORE, most_threads
from stylert.runtime.batching import BatchRange

#: Least, best and largest batch of an engine by default
DEFAULT_BATCH = (1, 4, 16)
MAX_BATCH = 4096
MAX_PROFILES = 8
#: The highest of TensorRT's builder optimisation levels
MAX_LEVEL = 5
#: Performance hints: short single calls, or many calls at once
LATENCY, THROUGHPUT = "latency", "throughput"

#: The first architecture with E4M3 matrix units: Ada
FP8_FROM = 89
#: The first architecture that runs hardware-compatible engines: Ampere
HARDWARE_COMPATIBLE_FROM = 80


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build_engine`. Each backend uses those that it knows and refuses those that it cannot follow.

    Attributes:
        threads: Threads of a CPU engine; None leaves the number to the library.
        target: `current` (this machine's device) or an architecture such as `sm_89`.
        batch: Least, best and largest batch of a GPU engine, or several of these ranges, each for an optimisation
            profile. CPU engines take any batch.
        level: TensorRT's builder optimisation level, 0 to 5.
        version_compatible: Build an engine that later versions of the library run.
        hardware_compatible: Build an engine that every GPU from Ampere on runs.
        stripped: Leave out the weights. Loading takes them from the bundle.
        plugins: Use stylert's kernels for the two operators in TensorRT, instead of their ONNX functions.
        hint: `latency`, or for OpenVINO also `throughput`.

    Raises:
        InputError: A value makes no sense for any backend.
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
        check_threads(self.threads)
        if self.target != "current" and not re.fullmatch(r"sm_[0-9]{2,3}", self.target):
            raise InputError(f"a target is current or an architecture such as sm_89, not {self.target[:40]!r}")
        if not 1 <= len(self.profiles) <= MAX_PROFILES:
            raise InputError(f"an engine has 1 to {MAX_PROFILES} batch ranges, not {len(self.profiles)}")
        for least, best, largest in self.profiles:
            if not 1 <= least <= best <= largest <= MAX_BATCH:
                raise InputError(f"a batch range rises from 1 to at most {MAX_BATCH}, not {least}:{best}:{largest}")
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise InputError(f"a builder level is from 0 to {MAX_LEVEL}, not {self.level}")
        if self.hint not in (LATENCY, THROUGHPUT):
            raise InputError(f"a hint is {LATENCY} or {THROUGHPUT}, not {str(self.hint)[:40]!r}")

    @property
    def profiles(self) -> tuple[BatchRange, ...]:
        """The batch ranges, one for each optimisation profile."""
        return tuple([self.batch] if self.batch and isinstance(self.batch[0], int) else self.batch)

    def gpu_flags(self, precision: str) -> dict[str, Any]:
        """The part of `Backend.flags` that all GPU backends share."""
        return {
            "batch": [list(batch) for batch in self.profiles],
            "level": self.level,
            "tf32": precision != "fp32",
            "version_compatible": self.version_compatible,
            "hardware_compatible": self.hardware_compatible,
        }


def check_threads(threads: object) -> None:
    """Raise InputError unless this is None or a number of threads that this process can use."""
    most = most_threads()
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= most):
        cores = f"{THREADS_PER_CORE} for each core that this process may use"
        raise InputError(f"threads is a whole number from 1 to {most} ({cores}), or None, not {shown(threads)}")


#: The options of a build without any
DEFAULTS = BuildOptions()


def parse_batch_ranges(text: str) -> tuple[BatchRange, ...]:
    """Read batch ranges: `"1:4:16"` is least, best and largest, `"8"` is exactly 8, and `"1,4:8:16"` are two ranges.

    A range that is named twice counts once.

    Raises:
        InputError: The text has another form.
    """
    ranges = []
    for part in text.split(","):
        numbers = part.strip().split(":")
        if len(numbers) not in (1, 3) or not all(n.isascii() and n.isdigit() and len(n) <= 4 for n in numbers):
            raise InputError(f"a batch range looks like 1:4:16, least, best and largest (got {text[:40]!r})")
        least, best, largest = map(int, numbers * 3 if len(numbers) == 1 else numbers)
        ranges.append((least, best, largest))
    return tuple(dict.fromkeys(ranges))


def check_fp8(backend: str, precision: str, architectures: Sequence[str]) -> None:
    """Raise InputError if the precision is fp8 and one of the architectures has no matrix units for it."""
    without = [name for name in architectures if int(name.removeprefix("sm_")) < FP8_FROM]
    if precision == "fp8" and without:
        raise InputError(f"{backend}: fp8 needs Ada, Hopper or later (from sm_{FP8_FROM} on), not {', '.join(without)}")


def refuse_gpu_options(backend: str, options: BuildOptions) -> None:
    """Raise InputError if a CPU backend gets an option of GPU engines."""
    if options.target != "current":
        raise InputError(f"{backend} builds for this CPU, not for {options.target}: targets are for tensorrt-rtx")
    compatible = options.version_compatible or options.hardware_compatible
    if options.level is not None or compatible or options.stripped or options.plugins:
        raise InputError(f"{backend} has no builder level, compatible or stripped engines or plugins: these are for TensorRT")
