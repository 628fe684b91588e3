"""The sources keep the two rules of files: JSON is read within bounds, and files appear whole."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

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
