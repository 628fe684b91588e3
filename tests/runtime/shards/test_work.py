"""The shards of a work have each seed once, and a folder takes no other work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stylert.core.errors import InputError, OutputError
from stylert.core.seeds import MAX_SEED
from stylert.runtime.shards.work import MANIFEST, ShardWork, begin, seed_ranges

WORK = ShardWork(bundle="0" * 64, backend="onnxruntime", precision="fp32", psi=0.7, seeds="0-9,20", shards=3)


@given(
    lengths=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=6),
    shards=st.integers(1, 40),
    backwards=st.booleans(),
)
def test_every_seed_is_in_one_shard(lengths: list[tuple[int, int]], shards: int, backwards: bool) -> None:
    seeds, texts, start = [], [], 0
    for length, gap in lengths:
        start += gap
        seeds += range(start, start + length)
        texts.append(f"{start}-{start + length - 1}")
        start += length
    text = ",".join(texts[::-1] if backwards else texts)
    if shards > len(seeds):
        with pytest.raises(InputError, match="shards"):
            dataclasses.replace(WORK, seeds=text, shards=shards)
        return
    work = dataclasses.replace(WORK, seeds=text, shards=shards)
    found = work.all_shards()
    assert len(found) == shards
    assert sorted(seed for shard in found for seed in shard.seeds()) == seeds
    sizes = [len(shard) for shard in found]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == work.images
    assert len({shard.name for shard in found}) == shards
    for shard in found:
        own = list(shard.seeds())
        assert shard.name == f"seeds-{own[0]:010d}-{own[-1]:010d}.tar"


def test_billions_of_seeds_need_no_list_of_them() -> None:
    work = dataclasses.replace(WORK, seeds=f"0-{MAX_SEED}", shards=1000)
    assert work.images == MAX_SEED + 1
    assert sum(map(len, work.all_shards())) == MAX_SEED + 1


@pytest.mark.parametrize("text", ["", "3-", "-3", "5-3", "0-5,5", "1,2,1", "a", "0-4294967296", "1.5", "0-3;7", "1-2-3"])
def test_seeds_that_are_none_or_twice_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        seed_ranges(text)


OTHER: dict[str, Any] = {
    "bundle": "1" * 64,
    "backend": "openvino",
    "precision": "int8",
    "psi": 0.8,
    "cutoff": 2,
    "label": 1,
    "label_vector": (1.0, 0.0),
    "batch": 4,
    "seeds": "0-10",
    "shards": 2,
    "format": "parquet",
    "picture": "webp",
    "signer": "1" * 64,
}


def test_every_difference_of_the_work_is_refused_by_its_name(tmp_path: Path) -> None:
    assert set(OTHER) == {field.name for field in dataclasses.fields(ShardWork)}
    assert len(begin(tmp_path, WORK)) == 3
    before = (tmp_path / MANIFEST).read_bytes()
    for name, value in OTHER.items():
        with pytest.raises(OutputError, match=rf"have {name} "):
            begin(tmp_path, dataclasses.replace(WORK, **{name: value}))
    assert (tmp_path / MANIFEST).read_bytes() == before
    (tmp_path / WORK.all_shards()[1].name).write_bytes(b"there")
    assert begin(tmp_path, WORK) == [WORK.all_shards()[0], WORK.all_shards()[2]]


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match=r"mine\.txt"):
        begin(tmp_path, WORK)
    assert not (tmp_path / MANIFEST).exists()
    (tmp_path / "mine.txt").unlink()
    begin(tmp_path, WORK)
    (tmp_path / "seeds-0000000000-0000000001.tar").write_text("of another division")
    with pytest.raises(OutputError, match="no shard of this work"):
        begin(tmp_path, WORK)


@pytest.mark.parametrize("text", ["", "{", '{"stylert": "0"}', "[]"])
def test_a_damaged_manifest_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(OutputError, match="manifest"):
        begin(tmp_path, WORK)
