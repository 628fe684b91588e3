"""The work of a folder of shards: which seeds, in which files, made how. Its manifest is written first, and never changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from stylert.core.errors import InputError, OutputError, shown
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import MAX_BYTES, read_document
from stylert.core.files.outputs import write_json
from stylert.core.files.partials import is_partial
from stylert.core.seeds import parse_seeds

MANIFEST = "stylert-shards.json"
FORMATS = {"tar": ".tar", "parquet": ".parquet"}
PICTURES = ("png", "webp", "jpg")
MAX_SHARDS = 100_000


@dataclass(frozen=True, kw_only=True)
class ShardWork:
    """All that decides the content of a folder of shards.

    Attributes:
        bundle: The sha256 of `bundle.json`.
        backend: Name of the backend.
        precision: Precision of the synthesis network.
        psi: Truncation.
        cutoff: How many latents are truncated; None for all.
        label: The class of a conditional network.
        label_vector: The label as numbers, in place of a class.
        batch: Images per call.
        seeds: The seeds as text, such as `0-999999`. None is there twice.
        shards: Number of shards.
        format: A key of `FORMATS`.
        picture: One of `PICTURES`.
        signer: The sha256 of the certificates with which the pictures are signed; None for pictures without a signature.

    Raises:
        InputError: The seeds are no seeds or overlap, or a field has no such value.
    """

    bundle: str
    backend: str
    precision: str
    psi: float
    cutoff: int | None = None
    label: int | None = None
    label_vector: tuple[float, ...] | None = None
    batch: int = 8
    seeds: str
    shards: int
    format: str = "tar"
    picture: str = "png"
    signer: str | None = None

    def __post_init__(self) -> None:
        count = sum(map(len, seed_ranges(self.seeds)))
        if not 1 <= self.shards <= min(count, MAX_SHARDS):
            raise InputError(f"{count} seeds make 1 to {min(count, MAX_SHARDS)} shards, not {self.shards}")
        for value, allowed in ((self.format, FORMATS), (self.picture, PICTURES)):
            if value not in allowed:
                raise InputError(f"a shard is of {', '.join(FORMATS)} with {', '.join(PICTURES)}, not {value!r}")

    @property
    def images(self) -> int:
        """Number of seeds."""
        return sum(map(len, seed_ranges(self.seeds)))

    def all_shards(self) -> list[Shard]:
        """Every shard, in the order of the seeds. Their sizes differ by at most one seed."""
        ranges = seed_ranges(self.seeds)
        total = sum(map(len, ranges))
        cuts = [total * i // self.shards for i in range(self.shards + 1)]
        suffix = FORMATS[self.format]
        shards, start, place = [], 0, 0  # `start`: place of ranges[0] among all seeds
        remaining = list(reversed(ranges))
        for end in cuts[1:]:
            parts: list[range] = []
            while place < end:
                current = remaining[-1]
                part = current[place - start : end - start]
                parts.append(part)
                place += len(part)
                if place - start == len(current):
                    remaining.pop()
                    start = place
            shards.append(Shard(f"seeds-{parts[0][0]:010d}-{parts[-1][-1]:010d}{suffix}", tuple(parts)))
        return shards


@dataclass(frozen=True)
class Shard:
    """One file.

    Attributes:
        name: Its name, with its first and last seed.
        parts: Its seeds.
    """

    name: str
    parts: tuple[range, ...]

    def seeds(self) -> Iterable[int]:
        for part in self.parts:
            yield from part

    def __len__(self) -> int:
        return sum(map(len, self.parts))


def seed_ranges(text: str) -> list[range]:
    """The ranges of seeds of a text such as `0-999999,2000000`, without a list of them all.

    Raises:
        InputError: The text has another form, or a seed is there twice.
    """
    ranges = []
    for part in text.split(",") if isinstance(text, str) else [""]:
        ends = [parse_seeds(end)[0] for end in part.strip().split("-")]
        if len(ends) > 2:
            raise InputError(f"seeds look like 0-3,7 (got {shown(text)})")
        if ends[-1] < ends[0]:
            raise InputError(f"seed range {part.strip()} runs backwards")
        ranges.append(range(ends[0], ends[-1] + 1))
    ordered = sorted(ranges, key=lambda r: r.start)
    for one, next_one in pairwise(ordered):
        if next_one.start < one.stop:
            raise InputError(f"seed {next_one.start} is there twice")
    return ranges


def begin(folder: Path, work: ShardWork) -> list[Shard]:
    """Write the manifest of a new folder, or check that of one in which the work goes on.

    Args:
        folder: The folder. It exists.
        work: The work.

    Returns:
        The shards that are missing.

    Raises:
        OutputError: The folder holds other work or other files, or cannot be written.
    """
    shards = work.all_shards()
    manifest = folder / MANIFEST
    others = [name for name in _names(folder) if name != MANIFEST]
    if not manifest.exists():
        if others:
            raise OutputError(f"cannot write shards into {folder}: it holds {others[0]}; choose an empty folder")
        write_json(manifest, {"kind": "shards", "images": work.images, **asdict(work)})
        return shards
    before = read_work(folder)
    for field in dataclasses.fields(ShardWork):
        old, new = getattr(before, field.name), getattr(work, field.name)
        if old != new:
            raise OutputError(
                f"the shards in {folder} have {field.name} {_short(old)}, not {_short(new)}: choose another folder, or the same options"
            )
    there = set(others)
    if unknown := sorted(there - {shard.name for shard in shards}):
        raise OutputError(f"{folder} also holds {unknown[0]}, which is no shard of this work; move it")
    return [shard for shard in shards if shard.name not in there]


def read_work(folder: Path) -> ShardWork:
    """The work of a folder. Raises OutputError if its manifest is damaged."""
    name = f"the manifest {folder / MANIFEST}"
    try:
        return read_document(read_file(folder / MANIFEST, OutputError, MAX_BYTES, "manifest"), ShardWork, name, OutputError)
    except InputError as e:
        raise OutputError(f"{name} is not valid: {e}") from None


def _names(folder: Path) -> Sequence[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if not is_partial(path.name))
    except OSError as e:
        raise OutputError(f"cannot write into {folder}: {e.strerror or e}") from None


def _short(value: object) -> str:
    return str(value)[:12] if isinstance(value, str) and len(value) == 64 else str(value)
