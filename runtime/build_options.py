"""What a build may be told, and how the command line's text for it is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from stylert.runtime.errors import InputError

#: `(stage, done, total)`
Progress = Callable[[str, int, int], None]

#: Least, best and largest batch of an engine when nothing else is asked for.
DEFAULT_BATCH = (1, 4, 16)
MAX_BATCH = 4096
#: TensorRT's builder optimisation levels
MAX_LEVEL = 5


@dataclass(frozen=True)
class BuildOptions:
    """Options of `build_engine`. Each backend takes from them what concerns it, and refuses what it cannot give.

    `threads` is for CPUs. `target` is `current` (the device here) or an architecture such as `sm_89`. `batch` is least,
    best and largest batch of a GPU engine; CPU engines run any batch. `level` is TensorRT's optimisation level. The two
    compatibilities make TensorRT engines that run on later versions, or on every GPU from Ampere on; `plugins` gives TensorRT
    our own kernels for the two operators instead of their functions' plain form.

    Raises InputError for values that no backend could mean.
    """

    threads: int | None = None
    target: str = "current"
    batch: tuple[int, int, int] = DEFAULT_BATCH
    level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    plugins: bool = False

    def __post_init__(self) -> None:
        if self.target != "current" and not re.fullmatch(r"sm_[0-9]{2,3}", self.target):
            raise InputError(f"a target is current or an architecture such as sm_89, not {self.target[:40]!r}")
        if not 1 <= self.batch[0] <= self.batch[1] <= self.batch[2] <= MAX_BATCH:
            raise InputError(f"a batch range rises from 1 to at most {MAX_BATCH}, not {':'.join(map(str, self.batch))}")
        if self.level is not None and not 0 <= self.level <= MAX_LEVEL:
            raise InputError(f"a builder level is from 0 to {MAX_LEVEL}, not {self.level}")


#: What a build does when it is told nothing.
DEFAULTS = BuildOptions()


def parse_batch_range(text: str) -> tuple[int, int, int]:
    """`"1:4:16"` to least, best, largest; `"8"` is a batch of just 8. Raises InputError on anything else."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(p.isascii() and p.isdigit() and len(p) <= 4 for p in parts):
        raise InputError(f"a batch range looks like 1:4:16, least, best and largest (got {text[:40]!r})")
    least, best, largest = map(int, parts * 3 if len(parts) == 1 else parts)
    return least, best, largest


def only_this_cpu(name: str, options: BuildOptions) -> None:
    """Raise InputError when options ask a CPU backend for what only a GPU engine has."""
    if options.target != "current":
        raise InputError(f"{name} builds for the CPU here, not for {options.target}: targets are for tensorrt-rtx")
    if options.level is not None or options.version_compatible or options.hardware_compatible or options.plugins:
        raise InputError(f"{name} has no builder level, compatible engines or plugins: these are for TensorRT")
