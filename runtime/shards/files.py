"""The file of a shard: pictures with their seeds and recipes, as WebDataset (tar) or Parquet.

| format | a seed |
|---|---|
| tar | `0000000042.png` and `0000000042.json`, which holds the recipe |
| Parquet | a row with `seed`, `image` (`bytes` and `path`, as in the datasets of Hugging Face) and `recipe` |
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from stylert.core.errors import missing_extra
from stylert.core.files.atomic import atomic_file

#: Rows of Parquet that are in memory at once.
ROWS = 256


class SeedPicture(NamedTuple):
    """The picture file of a seed.

    Attributes:
        seed: The seed.
        data: The bytes of the file, which holds the recipe, too.
        recipe: The recipe in JSON.
    """

    seed: int
    data: bytes
    recipe: str


def check_format(name: str) -> None:
    """Raise BackendError if the library of a format is missing."""
    if name == "parquet" and find_spec("pyarrow") is None:
        raise missing_extra("pyarrow", "datasets")


def write_shard(path: Path, pictures: Iterable[SeedPicture], format_name: str, suffix: str) -> None:
    """Write a shard, whole or not at all.

    Args:
        path: The file.
        pictures: What it holds. They are made as they are written.
        format_name: `tar` or `parquet`.
        suffix: Suffix of the pictures.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_file(path) as temporary:
        (_write_tar if format_name == "tar" else _write_parquet)(temporary, pictures, suffix)


def _write_tar(path: Path, pictures: Iterable[SeedPicture], suffix: str) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for picture in pictures:
            for ending, data in ((suffix, picture.data), (".json", picture.recipe.encode())):
                member = tarfile.TarInfo(f"{picture.seed:010d}{ending}")
                member.size, member.mode = len(data), 0o644
                archive.addfile(member, io.BytesIO(data))


def _write_parquet(path: Path, pictures: Iterable[SeedPicture], suffix: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("seed", pa.int64()), ("image", image), ("recipe", pa.string())])
    # Pictures are compressed already.
    with pyarrow.parquet.ParquetWriter(path, schema, compression={"seed": "none", "image": "none", "recipe": "zstd"}) as writer:
        rows: list[dict[str, object]] = []

        def write() -> None:
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()

        for picture in pictures:
            content = {"bytes": picture.data, "path": f"{picture.seed:010d}{suffix}"}
            rows.append({"seed": picture.seed, "image": content, "recipe": picture.recipe})
            if len(rows) == ROWS:
                write()
        write()
