"""Interference with a measurement: other programs, the hypervisor, quotas and throttling, and the remarks that follow.

The counters of the operating system are read before and after a measurement. A row measured under interference is kept, but
marked: its figures are not those of the machine alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stylert.benchmarks.machine.nvml import GpuWatch, watch_gpu
from stylert.benchmarks.sample_statistics import Distribution

# A row gets a remark above these limits.
MAX_CV = 0.10
MAX_DRIFT = 0.05
MAX_SPREAD = 0.10
#: Shares of all cores that other programs and the hypervisor took.
MAX_OTHERS, MAX_STOLEN = 0.05, 0.02
#: Share of the time that a quota kept the process waiting.
MAX_DENIED = 0.01

# A row gets a remark below these limits.
MIN_IMAGES, MIN_SECONDS = 100, 3.0


@dataclass(frozen=True)
class Interference:
    """Activity on the machine during one measurement. Shares are of all cores.

    Attributes:
        seconds: Duration of the measurement.
        others: Share that other programs used.
        stolen: Share that the hypervisor gave to other virtual machines.
        own: Share that this process used.
        switches: Involuntary context switches of this process, per second.
        denied: Share of the time that a quota of the control group kept the process waiting.
        thermal: Thermal throttling events that the processor counted.
        gpu_throttled: Reasons for which the GPU lowered its clocks.
    """

    seconds: float
    others: float
    stolen: float
    own: float
    switches: float
    denied: float
    thermal: int
    gpu_throttled: tuple[str, ...] = ()


@dataclass
class Watch:
    """Result of `watch`. Both fields are None until its block ends; `gpu` stays None without a GPU."""

    interference: Interference | None = None
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
    core_seconds = seconds * (os.cpu_count() or 1)
    result.gpu = gpu
    result.interference = Interference(
        seconds=seconds,
        others=max(0.0, change["busy"] - change["own"]) / core_seconds,
        stolen=max(0.0, change["steal"]) / core_seconds,
        own=change["own"] / core_seconds,
        switches=change["switches"] / seconds,
        denied=min(1.0, change["denied"] / seconds),
        thermal=int(change["thermal"]),
        gpu_throttled=tuple(sorted(gpu.throttled)) if gpu else (),
    )


def merge_interference(rounds: Sequence[Interference]) -> Interference:
    """Interference of several rounds together: shares are weighted by time, events are added."""
    total = sum(r.seconds for r in rounds)

    def mean(name: str) -> float:
        return sum(getattr(r, name) * r.seconds for r in rounds) / total

    return Interference(
        seconds=total,
        others=mean("others"),
        stolen=mean("stolen"),
        own=mean("own"),
        switches=mean("switches"),
        denied=mean("denied"),
        thermal=sum(r.thermal for r in rounds),
        gpu_throttled=tuple(sorted({reason for r in rounds for reason in r.gpu_throttled})),
    )


def instability_remarks(distribution: Distribution | None, interference: Interference | None) -> list[str]:
    """Reasons not to rely on a row, as `<kind>: <observation>`. The list is empty for a steady row."""
    remarks = []
    if distribution is not None:
        if distribution.cv > MAX_CV:
            remarks.append(f"unstable: calls vary by {distribution.cv:.0%} (coefficient of variation)")
        if abs(distribution.drift) > MAX_DRIFT:
            remarks.append(f"unstable: the last third is {distribution.drift:+.0%} from the first")
        if distribution.spread > MAX_SPREAD:
            remarks.append(f"unstable: the rounds' medians differ by {distribution.spread:.0%}")
    if interference is not None:
        if interference.others > MAX_OTHERS:
            remarks.append(f"unstable: other programs took {interference.others:.0%} of the cores")
        if interference.stolen > MAX_STOLEN:
            remarks.append(f"unstable: the hypervisor took {interference.stolen:.0%} of the cores")
        if interference.denied > MAX_DENIED:
            remarks.append(f"throttled: a processor quota stopped the process for {interference.denied:.0%} of the time")
        if interference.thermal:
            remarks.append(f"throttled: the processor slowed down {interference.thermal} times from heat")
        if interference.gpu_throttled:
            remarks.append(f"throttled: GPU, {', '.join(interference.gpu_throttled)}")
    return remarks


def sample_size_remarks(images: int, seconds: float) -> list[str]:
    """A remark if a row has fewer than `MIN_IMAGES` images or took less than `MIN_SECONDS`."""
    if images >= MIN_IMAGES and seconds >= MIN_SECONDS - 1e-6:
        return []
    return [f"short: {images} images in {seconds:.2g} s (at least {MIN_IMAGES} images and {MIN_SECONDS:g} s are needed)"]


def as_json_values(interference: Interference | None) -> dict[str, Any] | None:
    """The `disturbance` part of a row."""
    return None if interference is None else asdict(interference)


def _counters() -> dict[str, float]:
    """Seconds of processor time since boot and counts of events. A counter that the system lacks is 0."""
    import psutil

    times = psutil.cpu_times()
    # Linux counts a guest's time within user and nice.
    busy_states = ("user", "nice", "system", "irq", "softirq")
    throttle_counts = Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/*_count")
    return {
        "time": time.perf_counter(),
        "busy": sum(getattr(times, state, 0.0) for state in busy_states),
        "steal": getattr(times, "steal", 0.0),
        "own": sum(os.times()[:4]),  # with the children that have ended
        "switches": float(_involuntary_switches()),
        "denied": _denied_seconds(),
        "thermal": float(sum(_read_integer(path) for path in throttle_counts)),
    }


def _involuntary_switches() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _denied_seconds() -> float:
    """Total time that the quota of the control group (version 2 or 1) kept its processes waiting."""
    for path, name, units_per_second in (
        ("/sys/fs/cgroup/cpu.stat", "throttled_usec", 1e6),
        ("/sys/fs/cgroup/cpu/cpu.stat", "throttled_time", 1e9),
    ):
        try:
            fields = dict(line.split() for line in Path(path).read_text(encoding="utf-8").splitlines())
            if name in fields:
                return int(fields[name]) / units_per_second
        except (OSError, ValueError):
            continue
    return 0.0


def _read_integer(path: Path) -> int:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0
