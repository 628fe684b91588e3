"""The parts of a results file that are no rows, and the entries of a row that its tables and plots show.

Rows keep what they were measured with in free entries: `work`, `setup` and `details`. Here stands which of them must exist and of
which type they are, for each scenario. So the pages need no checks of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

if TYPE_CHECKING:
    from stylert.benchmarks.schema import Profile, Row

Scenario = Literal["single-stream", "offline", "server", "cold-start", "build", "kernel", "training", "peer"]
#: A rate or a sample, in any unit. The bounds keep ratios of two of them finite.
Positive = Annotated[float, Meta(ge=1e-30, le=1e30)]
NotNegative = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True)
class Machine:
    """Facts about the machine, of `machine_facts`. A GPU has at least its name."""

    cpu: str
    cores: Count
    isa: list[str]
    memory_gib: float
    system: str
    python: str
    packages: dict[str, str]
    gpu: dict[str, Any] | None

    def __post_init__(self) -> None:
        if self.gpu and not isinstance(self.gpu.get("name"), str):
            raise ValueError("the GPU has no name")


@dataclass(frozen=True)
class Model:
    """Facts about a model. `weights` is the digest of its weights."""

    resolution: Annotated[int, Meta(ge=4)]
    parameters: Count
    macs: Count
    weights: str


@dataclass(frozen=True)
class Ceiling:
    """Peak rates: TFLOP/s by type, and GB/s."""

    tflops: dict[str, Positive]
    bandwidth: Positive
    source: str


@dataclass(frozen=True)
class Picture:
    """A sample image in the folder of the file."""

    file: Annotated[str, Meta(pattern=r"^[^/\\\x00]+\.png$", max_length=255)]
    caption: str


@dataclass(frozen=True)
class SpeedRatio:
    """An entry of `times faster`: time of the peer over time of ours, the median over the cycles, with its interval."""

    ratio: Positive
    low: float | None
    high: float | None
    cycles: Count
    peer: str
    ours: str


@dataclass(frozen=True)
class AccuracyEntry:
    """The accuracy of a precision on a backend, of `export.verify`."""

    model: str
    backend: str
    precision: str
    reference: str
    seeds: int
    psnr_db: float
    worst_psnr_db: float
    worst_seed: int
    min_psnr_db: float
    passed: bool
    ssim: float = 0.0


@dataclass(frozen=True)
class EngineKey:
    """The part of an engine's key that a page shows."""

    backend: str
    version: str
    precision: str


@dataclass(frozen=True)
class Engine:
    """The part of an `engine.json` that a page shows."""

    key: EngineKey
    build_seconds: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """Entries of a row's work. Others are free."""

    model: str | None = None
    weights: str | None = None
    precision: str | None = None
    resolution: int | None = None
    batch: Count | None = None
    preset: str | None = None
    kernel: str | None = None
    layer: str | None = None
    dtype: str | None = None
    p99_ms: float | None = None

    def __post_init__(self) -> None:
        if self.preset is not None and self.resolution is None:
            raise ValueError("a work with a preset needs its resolution")


@dataclass(frozen=True)
class Setup:
    """Entries of a row's setup. Others are free."""

    backend: str
    form: str | None = None
    device: str | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Details:
    """Entries of a row's details. Others are free."""

    psnr_db: float | None = None
    engine_bytes: NotNegative | None = None
    tflops: float | None = None
    gbps: float | None = None
    main_s: float | None = None
    path_length_s: float | None = None
    r1_s: float | None = None


#: The entries that every row of a scenario has.
REQUIRED: dict[str, tuple[str, ...]] = {
    "single-stream": ("images_per_s",),
    "offline": ("work.batch", "percentile 50"),
    "server": ("work.p99_ms",),
    "build": ("details.engine_bytes",),
    "training": ("work.preset",),
}


def check_row(row: Row) -> None:
    """Check the free entries of a row, and those that its scenario needs.

    Raises:
        ValueError: An entry is missing or of another type. The message names it.
    """
    work, details = msgspec.convert(row.work, Work), msgspec.convert(row.details, Details)
    check_setup(row.setup)
    percentiles = {} if row.distribution is None else row.distribution.percentiles
    entries = {
        "images_per_s": row.images_per_s,
        "work.batch": work.batch,
        "work.p99_ms": work.p99_ms,
        "work.preset": work.preset,
        "details.engine_bytes": details.engine_bytes,
        "percentile 50": percentiles.get("50"),
        "percentile 99": percentiles.get("99"),
    }
    held = ("percentile 99",) if row.scenario == "server" and row.value else ()
    for name in (*REQUIRED.get(row.scenario, ()), *held):
        if entries[name] is None:
            raise ValueError(f"a row of {row.scenario} needs {name}")


def check_setup(setup: Mapping[str, Any]) -> None:
    """Check the setup of a row or of a profile. Raises ValueError."""
    msgspec.convert(setup, Setup)


def check_profile(profile: Profile) -> None:
    """Check the free entries of a profile, whose page names the model and the precision. Raises ValueError."""
    work = msgspec.convert(profile.work, Work)
    check_setup(profile.setup)
    if work.model is None or work.precision is None:
        raise ValueError("a profile needs work.model and work.precision")
