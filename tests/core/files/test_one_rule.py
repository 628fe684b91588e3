"""The sources keep the rules of files: JSON is read within bounds, files appear whole, and text is UTF-8 in every locale."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROOMS = ("core", "plugins", "models", "train", "runtime", "export", "benchmarks", "cli", "examples")

#: JSON that this process, or the library that it called, has just written; and a schema of the package.
OWN_JSON = {
    ("runtime/engines.py", "has_engine"),
    ("benchmarks/layer_times.py", "_onnxruntime"),
    ("benchmarks/schema.py", "schema"),
    ("runtime/serving/triton/python_backend/model.py", "initialize"),  # Triton's own configuration
    ("core/provenance/reading_process.py", "main"),
    ("core/provenance/reading_process.py", "_report"),  # in a process with little memory and time
}
#: Functions that write to the temporary path that their caller got from `atomic_file` or `atomic_directory`.
WRITERS = {
    ("runtime/backends/openvino.py", "build"),
    ("runtime/backends/tensorrt_build.py", "build_engine_file"),
    ("runtime/media/video.py", "_write_webp"),
    ("runtime/media/video.py", "_write_gif"),
    ("export/pipeline.py", "_save"),
    ("export/tuning/tune.py", "open_plan"),
    ("core/files/atomic.py", "append_line"),
    ("core/files/marks.py", "write_mark"),
    ("core/provenance/signing.py", "sign_in_place"),
    ("runtime/web/site.py", "_write_models"),
    ("runtime/web/site.py", "_write_service_worker"),
    ("runtime/web/site_directions.py", "write_site_directions"),
    ("benchmarks/layer_times.py", "_network_in_forms"),
    ("benchmarks/tools/signing_times.py", "main"),
}
WHOLE = ("atomic_file(", "atomic_directory(", "marked_directory(", "temporary_folder(")


def calls(tree: ast.AST, function: str = "", whole: bool = False) -> Iterator[tuple[str, bool, ast.Call]]:
    """Each call, with the function that it stands in, and whether that writes below a temporary path there."""
    for node in ast.iter_child_nodes(tree):
        inner, inside = function, whole
        if isinstance(node, ast.FunctionDef):
            inner, inside = node.name, False
        if isinstance(node, ast.With):
            inside = whole or any(word in ast.unparse(item.context_expr) for item in node.items for word in WHOLE)
        if isinstance(node, ast.Call):
            yield inner, inside, node
        yield from calls(node, inner, inside)


def sources() -> Iterator[tuple[str, ast.AST]]:
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text())


def test_json_of_others_is_read_by_the_reader_with_bounds() -> None:
    faults = [
        f"{file}:{call.lineno}"
        for file, tree in sources()
        for function, _, call in calls(tree)
        if ast.unparse(call.func) in ("json.load", "json.loads") and (file, function) not in OWN_JSON
    ]
    assert not faults


def test_every_file_is_written_at_a_temporary_path_first() -> None:
    def writes(call: ast.Call) -> bool:
        if isinstance(call.func, ast.Attribute):
            return call.func.attr in ("write_text", "write_bytes")
        if not call.args or isinstance(call.args[0], ast.Constant):  # a descriptor
            return False
        mode = call.args[1] if len(call.args) > 1 else None
        return ast.unparse(call.func) == "open" and isinstance(mode, ast.Constant) and bool(set(mode.value) & set("wax+"))

    faults = [
        f"{file}:{call.lineno} in {function}"
        for file, tree in sources()
        for function, whole, call in calls(tree)
        if writes(call) and not whole and (file, function) not in WRITERS
    ]
    assert not faults


def test_text_is_utf_8_whatever_the_locale() -> None:
    """Python otherwise takes the encoding of the locale, which is ASCII for `LC_ALL=C` without Python's UTF-8 mode."""
    faults = [
        f"{file}:{call.lineno}: {ast.unparse(call)[:80]}"
        for file, tree in sources()
        for _, _, call in calls(tree)
        if takes_the_encoding_of_the_locale(call)
    ]
    assert faults == []


def takes_the_encoding_of_the_locale(call: ast.Call) -> bool:
    """Whether a call reads or writes text, and names no encoding."""
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    function = ast.unparse(call.func)
    name = function.rpartition(".")[2]
    if "encoding" in options:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < {"read_text": 1, "write_text": 2}[name]
    if function.startswith("subprocess."):
        return "text" in options or "universal_newlines" in options
    if function in ("open", "os.fdopen"):
        mode = call.args[1] if len(call.args) > 1 else options.get("mode", ast.Constant("r"))
    elif name in ("TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile"):
        mode = call.args[0] if call.args else options.get("mode", ast.Constant("w+b"))
    else:
        return False
    return isinstance(mode, ast.Constant) and "b" not in mode.value


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("path.write_text(text)", True),
        ("path.write_text(text, encoding='utf-8')", False),
        ("path.read_text(errors='replace')", True),
        ("path.read_text('utf-8')", False),
        ("open(path)", True),
        ("open(path, 'w')", True),
        ("open(path, 'rb')", False),
        ("os.fdopen(1, mode='w')", True),
        ("tempfile.TemporaryFile()", False),
        ("tempfile.NamedTemporaryFile('w+')", True),
        ("subprocess.run(command, text=True)", True),
        ("subprocess.run(command)", False),
    ],
)
def test_the_search_for_text_without_encoding_finds_it(line: str, expected: bool) -> None:
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call)
    assert takes_the_encoding_of_the_locale(call) == expected


def test_links_are_followed_without_an_error_for_a_circle() -> None:
    """`Path.resolve` raises RuntimeError for links in a circle, until Python 3.13. `os.path.realpath` does not."""
    faults = [
        f"{file}:{call.lineno}"
        for file, tree in sources()
        for _, _, call in calls(tree)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "resolve"
        and ast.unparse(call.func.value) != "Path(__file__)"
    ]
    assert faults == []
