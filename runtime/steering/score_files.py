"""Scores of images by their seeds: from a CSV file, or from two folders of pictures that carry their recipes."""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stylert.core.errors import BundleError, InputError, shown, shown_line
from stylert.core.files.inputs import read_file
from stylert.core.images.pictures import SUFFIXES
from stylert.core.numerals import is_whole_number, read_number
from stylert.core.seeds import MAX_SEED
from stylert.runtime.bundle import Bundle
from stylert.runtime.media.recipes import check_bundle, read_recipe
from stylert.runtime.steering.directions_file import check_names
from stylert.runtime.steering.supervised import MAX_SCORES

#: Bytes of a CSV file
MAX_BYTES = 64 * 2**20
#: Scores of one file. Each of them becomes a direction.
MAX_COLUMNS = 1000
SEED, CLASS = "seed", "class"
TOO_WIDE = f"it has more than {MAX_COLUMNS:,} columns of scores"

#: A class, a label as numbers, or None for a network without labels
Label = int | tuple[float, ...] | None


@dataclass(frozen=True)
class ScoredImages:
    """Images of seeds with scores.

    Attributes:
        seeds: The seed of each image.
        labels: The label of each image.
        scores: By name of the score, float64 `[N]`. NaN stands for an image without that score.
    """

    seeds: tuple[int, ...]
    labels: tuple[Label, ...]
    scores: Mapping[str, np.ndarray]


def read_scores(path: str | Path) -> ScoredImages:
    """Read a CSV file with a header: the column `seed`, perhaps `class`, and a column for each score. A score may be empty.

    Raises:
        InputError: The file is missing, or has another form. The message names the line.
    """
    data = read_file(path, InputError, MAX_BYTES, "file of scores")
    seeds: list[int] = []
    labels: list[Label] = []
    line = 0
    try:
        lines = csv.reader(_narrow_lines(io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline="")))
        header = [name.strip() for name in next(lines, [])]
        names = [name for name in header if name not in (SEED, CLASS)]
        if header.count(SEED) != 1 or not names or len(set(header)) != len(header):
            raise ValueError("it needs a header with the column seed and one column for each score")
        if len(names) > MAX_COLUMNS:
            raise ValueError(TOO_WIDE)
        check_names(names)
        scores = {name: array("d") for name in names}
        for line, row in enumerate(lines, 2):
            if line > MAX_SCORES + 1:
                raise ValueError(f"it has more than {MAX_SCORES:,} lines")
            if not row:
                continue
            if len(row) != len(header):
                raise ValueError(f"it has {len(row)} values, not {len(header)}")
            cells = dict(zip(header, (cell.strip() for cell in row), strict=True))
            seeds.append(_whole(cells[SEED], SEED, MAX_SEED))
            labels.append(_whole(cells[CLASS], CLASS, 2**31 - 1) if CLASS in cells else None)
            for name in names:
                scores[name].append(_score(cells[name]) if cells[name] else math.nan)
    except (UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"file of scores {path} is no CSV file: {shown_line(str(e))}") from None
    except (ValueError, InputError) as e:
        raise InputError(f"file of scores {path}{f', line {line}' if line else ''}: {e}") from None
    return ScoredImages(tuple(seeds), tuple(labels), {name: np.array(values) for name, values in scores.items()})


def scored_pictures(bundle: Bundle, name: str, with_it: Path, without: Path) -> ScoredImages:
    """The pictures of two folders, with the score 1 in one and 0 in the other. Their recipes name the seeds.

    Args:
        bundle: The bundle that made the pictures.
        name: Name of the score.
        with_it: Folder of the pictures that have the property, written by `stylert generate`.
        without: Folder of pictures that do not have it.

    Raises:
        InputError: The name is not valid, a folder has no pictures, or a picture has no recipe of one seed.
        BundleError: Another bundle made a picture.
    """
    check_names([name])
    seeds: list[int] = []
    labels: list[Label] = []
    scores: list[float] = []
    for folder, score in ((with_it, 1.0), (without, 0.0)):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder of pictures")
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise InputError(f"{folder} holds no pictures")
        if len(seeds) + len(files) > MAX_SCORES:
            raise InputError(f"the folders hold more than {MAX_SCORES:,} pictures")
        for file in files:
            recipe = read_recipe(file)
            if recipe.command != "generate":
                raise InputError(f"{file} is a {recipe.command}, not the picture of one seed that `stylert generate` writes")
            try:
                check_bundle(recipe, bundle)
            except BundleError as e:
                raise BundleError(f"{file}: {e}") from None
            seeds.append(recipe.seeds[0])
            labels.append(recipe.label if recipe.label_vector is None else recipe.label_vector)
            scores.append(score)
    return ScoredImages(tuple(seeds), tuple(labels), {name: np.array(scores)})


def _narrow_lines(lines: Iterable[str]) -> Iterator[str]:
    """The lines of a file, none of them with more values than a table may have. A line can be the whole file."""
    for line in lines:
        if line.count(",") > MAX_COLUMNS + 1:  # beside the scores, seed and class
            raise ValueError(TOO_WIDE)
        yield line


def _score(text: str) -> float:
    number = read_number(text)
    if math.isinf(number):
        raise ValueError(f"a score is too large: {shown(text)}")
    return number


def _whole(text: str, name: str, most: int) -> int:
    if not is_whole_number(text, 10) or int(text) > most:
        raise ValueError(f"{name} is a whole number from 0 to {most}, not {shown(text)}")
    return int(text)
