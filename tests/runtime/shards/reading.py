"""Reads shards with the libraries that their users have: tarfile and pyarrow."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
from PIL import Image


def images_of(folder: Path) -> dict[int, tuple[np.ndarray, dict[str, object]]]:
    """The image and the recipe of every seed. A seed that is there twice is an error."""
    found: dict[int, tuple[np.ndarray, dict[str, object]]] = {}
    for path in sorted(folder.glob("seeds-*")):
        rows = _tar(path) if path.suffix == ".tar" else _parquet(path)
        for seed, data, recipe in rows:
            assert seed not in found, f"seed {seed} is there twice"
            found[seed] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), json.loads(recipe)
    return found


def _tar(path: Path) -> list[tuple[int, bytes, str]]:
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}  # type: ignore[union-attr]
        assert len(files) == len(archive.getmembers())
    names = sorted({name.split(".")[0] for name in files})
    assert len(files) == 2 * len(names)
    pictures = {name: data for name, data in files.items() if not name.endswith(".json")}
    return [
        (int(name.split(".")[0]), data, files[f"{name.split('.')[0]}.json"].decode()) for name, data in sorted(pictures.items())
    ]


def _parquet(path: Path) -> list[tuple[int, bytes, str]]:
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert all(row["image"]["path"].startswith(f"{row['seed']:010d}.") for row in rows)
    return [(row["seed"], row["image"]["bytes"], row["recipe"]) for row in rows]
