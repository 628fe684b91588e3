"""Every file format gives back its recipe, and any other content is refused in one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from stylert.core.errors import BundleError, InputError
from stylert.core.seeds import MAX_SEED
from stylert.runtime.bundle import Bundle
from stylert.runtime.media import image_metadata
from stylert.runtime.media.image_metadata import MAX_COMMENT, read_comment, xmp_packet
from stylert.runtime.media.pictures import COMMENTED, save_image
from stylert.runtime.media.recipes import COMMANDS, FURTHER_FIELDS, Recipe, bundle_hash, check_bundle, read_recipe
from stylert.runtime.media.video import SUFFIXES, write_video

#: Without a deadline, because the machine may be busy
calm = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

seeds = st.lists(st.integers(0, MAX_SEED), min_size=1, max_size=12).map(tuple)
factors = st.floats(-1000, 1000)
own_fields: dict[str, Any] = {
    "columns": seeds,
    "levels": st.lists(st.integers(0, 17), min_size=1, max_size=5).map(tuple),
    "frames": st.integers(2, 10_000_000),
    "fps": st.integers(1, 120),
    "loop": st.booleans(),
    "space": st.sampled_from(["w", "z"]),
    "latents": seeds,
    "toward": st.integers(0, MAX_SEED),
    "at": st.floats(0, 1),
    "directions": st.text("0123456789abcdef", min_size=64, max_size=64),
    "ws": st.text("0123456789abcdef", min_size=64, max_size=64),
    "moves": st.lists(st.sampled_from(["smile=+2", "pose@0-3=-1,0,1", "b4.conv1.3=0.5,1,2"]), min_size=1, max_size=4).map(
        tuple
    ),
}

vector_values = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-9, 9)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    command = draw(st.sampled_from(sorted(COMMANDS)))
    many = draw(seeds)
    label, vector = draw(st.none() | st.integers(0, 1000)), draw(st.lists(vector_values, min_size=1, max_size=5))
    own = {name: draw(own_fields[name]) for name in COMMANDS[command] if name != "together"}
    if command == "generate":
        own["together"] = many
    if draw(st.booleans()):
        own |= {name: draw(own_fields[name]) for name in FURTHER_FIELDS.get(command, ())}
    if "ws" in own:  # latents from a file have neither z nor label
        label, vector = None, []
        own |= {"space": "w"} if command == "interpolate" else {}
    return Recipe(
        command=command,
        bundle=draw(st.text("0123456789abcdef", min_size=64, max_size=64)),
        backend="onnxruntime",
        precision=draw(st.sampled_from(["fp32", "int8"])),
        seeds=many[:1] if command in ("generate", "sheet") else many,
        psi=tuple(draw(st.lists(factors, min_size=1, max_size=5 if command == "sweep" else 1))),
        cutoff=draw(st.none() | st.integers(0, 18)),
        label=label,
        label_vector=tuple(vector) if vector and label is None and draw(st.booleans()) else None,
        batch=draw(st.integers(1, 64)),
        **own,
    )


def grid_recipe(**changes: Any) -> Recipe:
    """The recipe of a grid, with some fields changed."""
    base = Recipe(command="grid", bundle="0" * 64, backend="onnxruntime", precision="fp32", seeds=(1, 2), psi=(0.7,))
    return dataclasses.replace(base, **changes)


@calm
@given(recipes())
def test_a_recipe_reads_back_as_it_was_written_and_says_that_the_picture_is_generated(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert json.loads(recipe.to_json())["AI-generated"] is True
    assert recipe.to_json().isascii()


@calm
@given(recipe=recipes(), suffix=st.sampled_from(COMMENTED), channels=st.sampled_from([1, 3]))
def test_pictures_of_every_format_give_back_their_recipe(tmp_path: Path, recipe: Recipe, suffix: str, channels: int) -> None:
    path = tmp_path / f"p{suffix}"
    save_image(np.full((8, 8, channels), 90, np.uint8), path, recipe.to_json())
    assert read_recipe(path) == recipe
    with Image.open(path, formats=("PNG", "WEBP", "GIF", "JPEG")) as picture:
        assert picture.size == (8, 8)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_videos_of_every_format_give_back_their_recipe(tmp_path: Path, suffix: str) -> None:
    recipe = grid_recipe(command="interpolate", frames=2, fps=5, loop=True, space="z", seeds=tuple(range(0, 4000, 3)))
    path = tmp_path / f"v{suffix}"
    write_video(path, iter([np.zeros((2, 8, 8, 3), np.uint8)]), 5, recipe.to_json())
    assert read_recipe(path) == recipe


def test_a_recipe_too_long_for_a_comment_is_refused_before_it_is_written() -> None:
    assert len(grid_recipe(seeds=tuple(range(200_000))).to_json()) < 1000
    with pytest.raises(InputError, match="fewer seeds"):
        grid_recipe(seeds=tuple(range(0, 100_000, 2))).to_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"command": "rm"},
        {"command": "mix"},
        {"command": "interpolate"},
        {"columns": (1,)},
        {"bundle": "../../etc"},
        {"bundle": "0" * 63},
        {"backend": ""},
        {"backend": "a\nb"},
        {"seeds": ()},
        {"seeds": (-1,)},
        {"seeds": (True,)},
        {"seeds": "1"},
        {"psi": (float("nan"),)},
        {"psi": (1e9,)},
        {"psi": (1.0, 2.0)},
        {"psi": 1.0},
        {"cutoff": -1},
        {"label": 1.5},
        {"label": 1, "label_vector": (0.5,)},
        {"label_vector": ()},
        {"label_vector": (float("nan"),)},
        {"label_vector": (1e39,)},
        {"label_vector": (True,)},
        {"label_vector": ("1",)},
        {"batch": 0},
        {"batch": 10**9},
        {"batch": 257},
        {"command": "generate", "seeds": (0,), "together": tuple(range(257))},
        {"version": "x" * 99},
        {"moves": ("smile=1",)},
        {"command": "edit", "moves": ("smile=1",)},
        {"command": "edit", "directions": "0" * 63, "moves": ("smile=1",)},
        {"command": "edit", "directions": "0" * 64, "moves": ()},
        {"command": "edit", "directions": "0" * 64, "moves": ("smile",)},
        {"command": "edit", "directions": "0" * 64, "moves": ("smile=1" + ",1" * 256,)},
        {"command": "edit", "directions": "0" * 64, "moves": ("smile=1,2", "pose=1,2,3")},
        {"command": "edit", "directions": "0" * 64, "moves": ("smile=1",) * 1001},
        {"command": "sheet", "directions": "0" * 64, "moves": ("smile=1",), "seeds": (1, 2)},
        {"command": "compose", "latents": (1,), "toward": 1, "at": 0.5, "moves": ("smile=1",)},
        {"command": "compose", "latents": (1,), "toward": 1, "at": 0.5, "directions": "0" * 64},
    ],
)
def test_invalid_fields_are_refused_in_one_line(changes: dict[str, Any]) -> None:
    with pytest.raises(InputError) as e:
        grid_recipe(**changes)
    assert "\n" not in str(e.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["0-99999999", "w", "mix"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(recipe=recipes(), data=st.data())
def test_a_recipe_with_any_field_changed_is_read_or_refused_in_one_line(recipe: Recipe, data: st.DataObject) -> None:
    fields = json.loads(recipe.to_json())
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(st.sampled_from([*sorted(fields), "extra"]))
        if data.draw(st.booleans()):
            fields[key] = data.draw(json_values)
        else:
            fields.pop(key, None)
    try:
        Recipe.from_json(json.dumps(fields))
    except InputError as e:
        assert "\n" not in str(e)
        assert len(str(e)) < 300


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "NaN",
        "[" * 50_000,
        '{"a":' * 10_000,
        "9" * 50_000,
        '{"AI-generated": false}',
        '{"AI-generated": true}',
    ],
)
def test_comments_without_a_recipe_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    save_image(np.zeros((4, 4, 3), np.uint8), tmp_path / "p.png", text)
    with pytest.raises(InputError) as e:
        read_recipe(tmp_path / "p.png")
    assert "\n" not in str(e.value)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of one file of every format, each with a recipe."""
    folder, text = tmp_path_factory.mktemp("samples"), grid_recipe().to_json()
    for suffix in COMMENTED:
        save_image(np.zeros((4, 4, 3), np.uint8), folder / f"p{suffix}", text)
    for suffix in SUFFIXES:
        write_video(folder / f"v{suffix}", iter([np.zeros((2, 16, 16, 3), np.uint8)]), 5, text)
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_gives_its_recipe_or_is_refused_in_one_line(
    samples: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(samples[data.draw(st.sampled_from(sorted(samples)))])
    for _ in range(data.draw(st.integers(0, 6))):
        at = data.draw(st.integers(0, len(content) - 1) | st.integers(0, min(300, len(content) - 1)))
        piece = data.draw(st.sampled_from([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0"]) | st.binary(max_size=5))
        content[at : at + len(piece)] = piece
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path / "file"
    path.write_bytes(content)
    try:
        read_recipe(path)
    except InputError as e:
        assert "\n" not in str(e)


@calm
@given(
    head=st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xfe", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"\0\0\0\x08ftyp", b""]),
    noise=st.binary(),
)
def test_arbitrary_bytes_behind_any_signature_are_refused_in_one_line(tmp_path: Path, head: bytes, noise: bytes) -> None:
    (tmp_path / "file").write_bytes(head + noise)
    with pytest.raises(InputError) as e:
        read_recipe(tmp_path / "file")
    assert "\n" not in str(e.value)


def test_a_comment_that_is_or_claims_to_be_too_long_is_not_read(tmp_path: Path) -> None:
    huge = MAX_COMMENT + 1
    for name, content in {
        "png": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**31) + b"tEXtstylert\0",
        "gif": b"GIF89a" + bytes(7) + b"!\xfe" + (b"\xff" + b"a" * 255) * (huge // 255 + 1) + b"\0",
        "webp": b"RIFF\0\0\0\0WEBPXMP " + struct.pack("<I", 2**32 - 1),
        "mp4": b"\0\0\0\x08ftyp\0\0\0\x01moov" + struct.pack(">Q", 2**63),
        "jpg": b"\xff\xd8\xff\xfe\xff\xff" + b"a" * 65533,
    }.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"longer than|cut short"):
            read_comment(path)


def test_a_huge_block_before_the_comment_costs_no_memory(tmp_path: Path) -> None:
    length = 2**30  # a hole in the file
    comment = b"tEXtstylert\0text"
    xmp = xmp_packet("text")
    for name, head, tail in (
        ("png", b"\x89PNG\r\n\x1a\n" + struct.pack(">I", length) + b"skip", bytes(4) + struct.pack(">I", 12) + comment),
        ("webp", b"RIFF\0\0\0\0WEBPskip" + struct.pack("<I", length), b"XMP " + struct.pack("<I", len(xmp)) + xmp),
    ):
        with open(tmp_path / name, "wb") as file:
            file.write(head)
            file.seek(length, 1)
            file.write(tail)
        tracemalloc.start()
        assert read_comment(tmp_path / name) == "text"
        assert tracemalloc.get_traced_memory()[1] < 2**20
        tracemalloc.stop()


def test_the_blocks_before_a_comment_are_counted_in_every_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_metadata, "MAX_BLOCKS", 50)
    for count, found in ((10, True), (60, False)):
        for name, content in {
            "png": b"\x89PNG\r\n\x1a\n"
            + struct.pack(">I4sI", 0, b"skip", 0) * count
            + struct.pack(">I", 12)
            + b"tEXtstylert\0text",
            "gif": b"GIF89a" + bytes(7) + b"!\xff" + b"\x01a" * count + b"\0!\xfe\x04text\0",
        }.items():
            (tmp_path / name).write_bytes(content)
            if found:
                assert read_comment(tmp_path / name) == "text"
            else:
                with pytest.raises(InputError, match="no recipe"):
                    read_comment(tmp_path / name)


def test_the_comment_of_a_picture_too_large_to_decode_is_read(tmp_path: Path) -> None:
    """Pillow refuses to open this file, because its header names 2**28 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 2**14, 2**14, 8, 2, 0, 0, 0)
    chunks = (header, b"tEXtstylert\0text", b"IDAT")
    framed = b"".join(struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks)
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + framed)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "p.png", formats=("PNG",))
    assert read_comment(tmp_path / "p.png") == "text"


def test_files_without_a_recipe_and_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.webp")
    (tmp_path / "text").write_text("hello")
    os.mkfifo(tmp_path / "pipe")
    for name, word in {
        "plain.png": "no recipe",
        "plain.webp": "no recipe",
        "text": "no recipe",
        "none": "does not exist",
        ".": "not a file",
        "pipe": "not a regular file",
    }.items():
        with pytest.raises(InputError, match=word):
            read_recipe(tmp_path / name)


def test_a_bundle_that_differs_in_one_byte_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    recipe = grid_recipe(bundle=bundle_hash(bundle))
    check_bundle(recipe, bundle)
    copy = Path(shutil.copytree(bundle.path, tmp_path / "b"))
    (copy / "bundle.json").write_text((copy / "bundle.json").read_text() + " ")
    with pytest.raises(BundleError, match="hash"):
        check_bundle(recipe, Bundle.load(copy))
