"""An output replaces no input, and only files that stylert wrote."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from stylert.core.errors import OutputError
from stylert.core.files.json_documents import read_document
from stylert.core.files.outputs import (
    DOCUMENTS,
    MARKS,
    ZIP_COMMENT,
    check_output,
    document_text,
    is_same_file,
    is_within,
    write_json,
)
from tests.core.files.test_one_rule import sources

#: A file of each kind as stylert writes it, and as others do.
OWN = {
    "JSON": b'{"stylert": "0.1.0", "a": 1}',
    "HTML": b'<!doctype html>\n<meta name="generator" content="stylert">',
    "zip": b"PK\x03\x04 data " + ZIP_COMMENT,
    "safetensors": b'\x20\0\0\0\0\0\0\0{"__metadata__":{"stylert":"{\\"kind\\": \\"generator\\"}"}}',
    "directions": b'\x20\0\0\0\0\0\0\0{"__metadata__":{"stylert":"{\\"kind\\": \\"directions\\"}"}}',
    "torch file": b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02}(X\x07\0\0\0stylertX\x11\0\0\0stylegan2-pytorch",
    "official pickle": b"\x80\x03}(X\x0a\0\0\0module_srcX\x30\0\0\0# written by stylert\nfrom training.networks import *\n",
    "latents": b'\x20\0\0\0\0\0\0\0{"__metadata__":{"stylert":"{\\"kind\\": \\"latents\\"}"}}',
    "encoder": b'\x20\0\0\0\0\0\0\0{"__metadata__":{"stylert":"{\\"kind\\": \\"encoder\\"}"}}',
}
FOREIGN = {
    "JSON": b'{"name": "package"}',
    "JSON that names stylert": b'{"tools": ["stylert"], "dependencies": {"stylert": "0.1.0"}, "a": {"stylert": "x"}}',
    "HTML": b"<!doctype html>",
    "zip": b"PK\x03\x04 data",
    "safetensors": b"\x02\0\0\0\0\0\0\0{}",
    "torch file of others": b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02}(X\x05\0\0\0g_ema}",
    "official pickle of others": b"\x80\x03}(X\x0a\0\0\0module_srcX\x20\0\0\0# Copyright (c) of others\nimport numpy\n",
    "safetensors of a run": b'\x20\0\0\0\0\0\0\0{"__metadata__":{"stylert":"{\\"kind\\": \\"training\\"}"}}',
    "text": b"stylert",
}


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


def test_only_an_own_file_of_the_kind_is_replaced(tmp_path: Path) -> None:
    assert MARKS.keys() == OWN.keys()
    for kind in MARKS:
        for there, content in [*OWN.items(), *FOREIGN.items(), ("", b"")]:
            (tmp_path / "f").write_bytes(content)
            if not content or content == OWN[kind]:
                check_output(tmp_path / "f", kind)
            else:
                with pytest.raises(OutputError, match=f"stylert did not write the file there as {kind}"):
                    check_output(tmp_path / "f", kind)
            assert (tmp_path / "f").read_bytes() == content, there


def test_written_json_is_known_again(tmp_path: Path) -> None:
    write_json(tmp_path / "f.json", {"values": list(range(100_000))})
    check_output(tmp_path / "f.json", "JSON")


#: JSON documents in the sources that no folder needs: results, a cache, and those of other programs.
OTHER_DOCUMENTS = {"results.json", "forms.json", "dataset_info.json", "state.json"}


def test_every_document_that_a_folder_needs_is_known() -> None:
    named = {
        node.value
        for file, tree in sources()
        if not file.startswith(("benchmarks/", "examples/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.-]+\.json", node.value)
    }
    assert named - OTHER_DOCUMENTS == set(DOCUMENTS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_that_belong_to_other_files_are_not_replaced(name: str, tmp_path: Path) -> None:
    check_output(tmp_path / name, "JSON")
    (tmp_path / name).write_text("{}")
    (tmp_path / "link.json").symlink_to(name)
    for given in (name, "link.json"):
        with pytest.raises(OutputError, match="belongs to other files"):
            check_output(tmp_path / given, "JSON")


def test_paths_are_compared_by_what_they_name(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    assert is_same_file(tmp_path / "link" / "new", tmp_path / "d" / "new")
    assert not is_same_file(tmp_path / "d", tmp_path)
    assert is_within(tmp_path / "link" / "new", tmp_path / "d")
    assert is_within(tmp_path / "d", tmp_path / "d")
    assert not is_within(tmp_path / "d2", tmp_path / "d")


@hypothesis.given(st.text(st.characters()))
def test_a_text_of_a_document_is_unicode_and_stays_as_it_is_where_it_can(text: str) -> None:
    written = document_text(text)
    written.encode()
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert written == text


def test_a_document_with_the_name_of_a_file_that_is_not_utf_8_can_be_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    write_json(tmp_path / "d.json", {"rows": [{"file": name, "parts": (name, 1, None)}], name: "ü"})
    written = read_document((tmp_path / "d.json").read_bytes(), dict[str, Any], "it", OutputError)
    assert written["rows"] == [{"file": r"caf\xe9.png", "parts": [r"caf\xe9.png", 1, None]}]
    assert written[r"caf\xe9.png"] == "ü"
