"""Scores are read from CSV files and from folders of pictures, and mistakes name their line or file."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from stylert.cli.picture_options import PictureOptions
from stylert.cli.pipeline.generate import generate_images
from stylert.core.errors import BundleError, InputError, StylertError
from stylert.runtime.bundle import Bundle
from stylert.runtime.steering.score_files import read_scores, scored_pictures


def generate(bundle: Bundle, folder: Path, seeds: list[int], grid: bool = False) -> None:
    generate_images(bundle.path, seeds, folder, 0.7, grid, PictureOptions(), lambda *_: None)


def test_a_table_is_read_with_empty_scores_and_classes(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes(b"\xef\xbb\xbfsmile, seed ,class,age\r\n1.5,0,2,\r\n-1e-3, 4294967295,0,30\r\n\r\n")
    table = read_scores(tmp_path / "s.csv")
    assert (table.seeds, table.labels) == ((0, 2**32 - 1), (2, 0))
    assert list(table.scores) == ["smile", "age"]
    np.testing.assert_array_equal(table.scores["smile"], [1.5, -1e-3])
    np.testing.assert_array_equal(table.scores["age"], [np.nan, 30])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header"),
        (b"seed\n1\n", "header"),
        (b"score\n1\n", "header"),
        (b"seed,a,a\n1,2,3\n", "header"),
        (b"seed,a\n1,2\n3\n", "line 3: it has 1 values"),
        (b"seed,a\n1,2\n-3,1\n", "line 3: seed"),
        (b"seed,a\n4294967296,2\n", "line 2: seed"),
        (b"seed,a\n1,two\n", "line 2: not a number"),
        (b"seed,a\n1,nan\n", "line 2: not a number"),
        (b"seed,a\n1,2\n3,-1e400\n", "line 3: a score is too large: '-1e400'"),
        (b"seed,class,a\n1,,2\n", "line 2: class"),
        (b"seed,hair colour\n1,2\n", "a direction has a name"),
        (b"seed,\n1,2\n", "a direction has a name"),
        (b"seed," + b",".join(b"a%d" % i for i in range(1001)) + b"\n", "more than 1,000 columns"),
        (b"\xff\xfe\x00", "no CSV"),
        (b'seed,a\n1,"' + b"x" * 200_000, "no CSV"),
    ],
)
def test_another_table_is_refused_by_line(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as e:
        read_scores(tmp_path / "s.csv")
    assert "\n" not in str(e.value)


def test_pictures_tell_their_seeds(bundle: Bundle, tmp_path: Path) -> None:
    generate(bundle, tmp_path / "yes", [3, 5])
    generate(bundle, tmp_path / "no", [8, 9, 1])
    (tmp_path / "no" / "notes.txt").write_text("no picture")
    images = scored_pictures(bundle, "smile", tmp_path / "yes", tmp_path / "no")
    assert dict(zip(images.seeds, images.scores["smile"], strict=True)) == {3: 1, 5: 1, 8: 0, 9: 0, 1: 0}
    assert set(images.labels) == {None}


def test_pictures_without_a_seed_of_their_own_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    generate(bundle, tmp_path / "yes", [3])
    generate(bundle, tmp_path / "grid", [3, 4], grid=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for folder in ("grid", "empty", "none", "foreign"):
        with pytest.raises(StylertError) as e:
            scored_pictures(bundle, "smile", tmp_path / "yes", tmp_path / folder)
        assert folder in str(e.value)
        assert "\n" not in str(e.value)


def test_pictures_of_another_bundle_are_refused_by_name(bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    from stylert.runtime.bundle import MANIFEST

    generate(bundle, tmp_path / "yes", [3])
    shutil.copytree(bundle.path, tmp_path / "other")
    manifest = tmp_path / "other" / MANIFEST
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(BundleError, match=r"seed0003\.png"):
        scored_pictures(Bundle.load(tmp_path / "other"), "smile", tmp_path / "yes", tmp_path / "yes")


@pytest.mark.parametrize("line", ["", "1,1"])
def test_a_file_of_many_lines_is_refused_before_all_are_read(line: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("seed,a\n" + f"{line}\n" * 4_000_000, encoding="utf-8")
    tracemalloc.start()
    with pytest.raises(InputError, match="more than 100,000 lines"):
        read_scores(tmp_path / "s.csv")
    assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("before", ["", "seed,a\n"])
def test_a_line_of_many_columns_is_refused_before_it_is_taken_apart(before: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(before + "," * 2**23, encoding="utf-8")
    tracemalloc.start()
    with pytest.raises(InputError, match="more than 1,000 columns"):
        read_scores(tmp_path / "s.csv")
    assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    tracemalloc.stop()


def test_a_name_of_no_direction_is_refused_before_a_folder_is_read(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a direction has a name"):
        scored_pictures(bundle, "hair colour", tmp_path / "none", tmp_path / "none")
