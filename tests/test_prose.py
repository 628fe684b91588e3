"""Docstrings and comments read at the first reading: short sentences, with the subject in front.

The rules are those of CONTRIBUTING.md. Formulas, tables, lists of commands and code are not sentences.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("core", "plugins", "models", "train", "runtime", "export", "benchmarks", "cli", "examples", "tests")
MAX_WORDS = 30
#: A sentence does not begin with a clause as its subject.
CLAUSE = re.compile(r"(What|That|Where|Whatever|Whoever|Who|Which) (?!(follows|is|are|was|were|does|do|can|would)\b.*\?$)")
SECTION = re.compile(r"^(Args|Returns|Raises|Yields|Attributes|Example|Examples):$")


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line number and text of every docstring."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def comments(source: str) -> Iterator[tuple[int, str]]:
    """Line number and text of every block of comments."""
    block: list[str] = []
    begin = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or token.string.startswith(("#!", "# noqa", "# type:")):
            continue
        row, text = token.start[0], token.string.lstrip("#: ")
        if block and row == last + 1 and not token.line[: token.start[1]].strip():
            block.append(text)
        else:
            if block:
                yield begin, "\n".join(block)
            begin, block = row, [text]
        last = row
    if block:
        yield begin, "\n".join(block)


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text in Markdown, without its code, formulas, tables and section names."""
    paragraphs: list[list[str]] = [[]]
    fenced = False
    for line in text.splitlines():
        stripped = line.strip()
        fenced ^= stripped.startswith("```")
        indented = line.startswith("    ") and not paragraphs[-1]
        if not stripped or fenced or stripped.startswith(("```", "|", ">>>")) or SECTION.match(stripped) or indented:
            paragraphs.append([])
            continue
        if stripped.startswith(("- ", "* ")) or re.match(r"\w+( \(.*\))?: |\d+\. ", stripped):
            paragraphs.append([])
        paragraphs[-1].append(stripped.removeprefix("- ").removeprefix("* "))
    for paragraph in paragraphs:
        joined = re.sub(r"`[^`]*`", "`x`", " ".join(paragraph))
        yield from (s for s in re.split(r"(?<=[.!?;:])\s+(?=[A-Z`(\[])", joined) if s)


def faults(path: Path) -> Iterator[str]:
    """What is hard to read in a file, each with its line."""
    source = path.read_text()
    for line, text in [*docstrings(ast.parse(source)), *comments(source)]:
        for sentence in sentences(text):
            count = len(re.findall(r"[A-Za-z][\w'-]*", sentence))
            if count > MAX_WORDS:
                yield f"{path.relative_to(ROOT)}:{line}: {count} words: {sentence}"
            elif count > 5 and CLAUSE.match(sentence):
                yield f"{path.relative_to(ROOT)}:{line}: begins with a clause: {sentence}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_sentences_are_short_and_begin_with_their_subject(folder: str) -> None:
    found = [fault for path in sorted((ROOT / folder).rglob("*.py")) for fault in faults(path)]
    assert not found, "\n".join(found)


def test_the_check_finds_what_it_is_for() -> None:
    long = " ".join(["word"] * (MAX_WORDS + 1)) + "."
    assert [s for s in sentences(f"One. {long}") if len(s.split()) > MAX_WORDS] == [long]
    assert CLAUSE.match("What is not here is left out of the sum entirely.")
    assert not CLAUSE.match("The sum leaves out the rest.")
    assert list(sentences("Args:\n    x: A sum of words.\n\n    y = a + b\n\n| a | b |\n")) == ["x: A sum of words."]
