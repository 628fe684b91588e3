"""An output replaces no input, and no file of another kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylert.core.errors import OutputError
from stylert.core.files.outputs import KINDS, check_output, is_same_file, is_within

#: The beginning of a file of each kind.
EXAMPLES = {"JSON": b' {"a": 1}', "HTML": b"\n<!doctype html>", "zip": b"PK\x03\x04", "safetensors": b"\x10\0\0\0\0\0\0\0{}"}


def test_an_input_is_not_replaced_by_any_of_its_names(tmp_path: Path) -> None:
    given = tmp_path / "a.json"
    given.write_text("{}")
    (tmp_path / "hard.json").hardlink_to(given)
    (tmp_path / "soft.json").symlink_to(given)
    (tmp_path / "folder").symlink_to(tmp_path)
    for name in ("a.json", "hard.json", "soft.json", "folder/a.json", "../" + tmp_path.name + "/a.json"):
        with pytest.raises(OutputError, match="it is an input"):
            check_output(tmp_path / name, "JSON", (None, given))
    check_output(tmp_path / "b.json", "JSON", (None, given))
    assert given.read_text() == "{}"


def test_a_file_is_replaced_only_by_one_of_its_kind(tmp_path: Path) -> None:
    assert KINDS.keys() == EXAMPLES.keys()
    for kind in KINDS:
        for there, head in {**EXAMPLES, "": b""}.items():
            (tmp_path / "f").write_bytes(head)
            if there in (kind, ""):
                check_output(tmp_path / "f", kind)
            else:
                with pytest.raises(OutputError, match=f"the file there is not {kind}"):
                    check_output(tmp_path / "f", kind)
            assert (tmp_path / "f").read_bytes() == head


@pytest.mark.parametrize("name", ["bundle.json", "engine.json", "dataset.json"])
def test_documents_that_belong_to_other_files_are_not_replaced(name: str, tmp_path: Path) -> None:
    check_output(tmp_path / name, "JSON")
    (tmp_path / name).write_text("{}")
    with pytest.raises(OutputError, match="belongs to other files"):
        check_output(tmp_path / name, "JSON")


def test_paths_are_compared_by_what_they_name(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    assert is_same_file(tmp_path / "link" / "new", tmp_path / "d" / "new")
    assert not is_same_file(tmp_path / "d", tmp_path)
    assert is_within(tmp_path / "link" / "new", tmp_path / "d")
    assert is_within(tmp_path / "d", tmp_path / "d")
    assert not is_within(tmp_path / "d2", tmp_path / "d")
