"""What else went on while something was measured: other programs, the hypervisor, throttling. And what that means for a row.

The machine's own counters are read before and after. A measurement that shared its cores is not wrong, but it is of another
machine than the one it names, so its row is marked.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylert.benchmarks.distribution import Distribution
from stylert.benchmarks.machine.nvml import GpuWatch, watch_gpu

#: Above these a row is marked: coefficient of variation of the calls, drift and spread of the rounds, share of the cores taken
#: by others or by the hypervisor, share of the time that the process was denied the processor by its quota.
UNSTABLE_CV, UNSTABLE_DRIFT, UNSTABLE_SPREAD, BUSY, STOLEN, DENIED = 0.10, 0.05, 0.10, 0.05, 0.02, 0.01
#: Below either a row is marked, too.
LEAST_IMAGES, LEAST_SECONDS = 100, 3.0


@dataclass(frozen=True)
class Disturbance:
    """Shares are of all cores over the measurement; `switches` is how often per second the process lost its core."""

    seconds: float
    others: float
    stolen: float
    own: float
    switches: float
    denied: float
    thermal: int  # events of thermal throttling that the processor counted
    gpu_throttled: tuple[str, ...] = ()


@dataclass
class Watch:
    """Filled when the block ends."""

    disturbance: Disturbance | None = None
    gpu: GpuWatch | None = None


@contextlib.contextmanager
def watch() -> Iterator[Watch]:
    """Observe the machine while the block runs in this process."""
    result = Watch()
    with watch_gpu() as gpu:
        before = _counters()
        yield result
        after = _counters()
    change = {name: after[name] - before[name] for name in before}
    seconds = max(change["time"], 1e-9)
    capacity = seconds * (os.cpu_count() or 1)
    result.gpu = gpu
    result.disturbance = Disturbance(
        seconds=seconds,
        others=max(0.0, change["busy"] - change["own"]) / capacity,
        stolen=max(0.0, change["steal"]) / capacity,
        own=change["own"] / capacity,
        switches=change["switches"] / seconds,
        denied=min(1.0, change["denied"] / seconds),
        thermal=int(change["thermal"]),
        gpu_throttled=tuple(sorted(gpu.throttled)) if gpu else (),
    )


def merge(found: Sequence[Disturbance]) -> Disturbance:
    """Of several rounds: shares weighted by their time, events added."""
    total = sum(d.seconds for d in found)

    def mean(name: str) -> float:
        return sum(getattr(d, name) * d.seconds for d in found) / total

    return Disturbance(
        total,
        mean("others"),
        mean("stolen"),
        mean("own"),
        mean("switches"),
        mean("denied"),
        sum(d.thermal for d in found),
        tuple(sorted({name for d in found for name in d.gpu_throttled})),
    )


def remarks(distribution: Distribution | None, disturbance: Disturbance | None) -> list[str]:
    """Why a row is weak evidence; empty for a good one."""
    found = []
    if distribution is not None:
        if distribution.cv > UNSTABLE_CV:
            found.append(f"unstable: calls vary by {distribution.cv:.0%} (coefficient of variation)")
        if abs(distribution.drift) > UNSTABLE_DRIFT:
            found.append(f"unstable: the last third is {distribution.drift:+.0%} from the first")
        if distribution.spread > UNSTABLE_SPREAD:
            found.append(f"unstable: the rounds' medians differ by {distribution.spread:.0%}")
    if disturbance is not None:
        if disturbance.others > BUSY:
            found.append(f"unstable: other programs took {disturbance.others:.0%} of the cores")
        if disturbance.stolen > STOLEN:
            found.append(f"unstable: the hypervisor took {disturbance.stolen:.0%} of the cores")
        if disturbance.denied > DENIED:
            found.append(f"throttled: the processor quota held the process up for {disturbance.denied:.0%} of the time")
        if disturbance.thermal:
            found.append(f"throttled: the processor slowed down {disturbance.thermal} times from heat")
        if disturbance.gpu_throttled:
            found.append(f"throttled: GPU, {', '.join(disturbance.gpu_throttled)}")
    return found


def too_short(images: int, seconds: float) -> list[str]:
    """A remark on a row that rests on little."""
    if images >= LEAST_IMAGES and seconds >= LEAST_SECONDS - 1e-6:
        return []
    return [f"short: {images} images in {seconds:.2g} s, where {LEAST_IMAGES} in {LEAST_SECONDS:g} s are the least to rely on"]


def as_values(disturbance: Disturbance | None) -> dict[str, Any] | None:
    return None if disturbance is None else asdict(disturbance)


def _counters() -> dict[str, float]:
    """Seconds of processor time since boot, and counts of events; 0 for what the system does not tell."""
    import psutil

    times = psutil.cpu_times()
    steal = getattr(times, "steal", 0.0)
    # Guests' time is part of user time already.
    named = ("user", "nice", "system", "irq", "softirq")
    try:
        import resource

        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    except ImportError:  # not on Windows
        switches = 0
    return {
        "time": time.perf_counter(),
        "busy": sum(getattr(times, name, 0.0) for name in named),
        "steal": steal,
        "own": sum(os.times()[:4]),  # with the children that have ended
        "switches": float(switches),
        "denied": _denied_seconds(),
        "thermal": float(sum(_whole(p) for p in Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/*_count"))),
    }


def _denied_seconds() -> float:
    """For how long the control group's quota has held its processes up since it exists."""
    for path, name, scale in (
        ("/sys/fs/cgroup/cpu.stat", "throttled_usec", 1e6),
        ("/sys/fs/cgroup/cpu/cpu.stat", "throttled_time", 1e9),
    ):
        try:
            fields = dict(line.split() for line in Path(path).read_text().splitlines())
            if name in fields:
                return int(fields[name]) / scale
        except (OSError, ValueError):
            continue
    return 0.0


def _whole(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
