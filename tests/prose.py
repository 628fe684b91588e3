"""Sentences of Python files and Markdown pages, and the faults of these sentences.

The rules are those of CONTRIBUTING.md, under "Words". Code, formulas, tables, headings and section names are not sentences.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator

MAX_WORDS = 30
#: The first word of a clause that stands as a subject: "What is drawn depends on z."
CLAUSE = re.compile(r"(What|That|Where|Whatever|Whoever|Who|Which)\s")
#: A row of a table, a heading, an example of Python, or the name of a section of a docstring.
NO_SENTENCE = re.compile(r"\||#+ |>>>|(Args|Returns|Raises|Yields|Attributes|Examples?):$")
LIST_ITEM = re.compile(r"[-*] |\d+\. ")
#: A name below "Args:" or "Raises:".
ARGUMENT = re.compile(r"    \s*\w+( \(.*\))?: ")
ABBREVIATIONS = ("e.g.", "i.e.", "et al.", "vs.", "cf.", "approx.", "Fig.", "Eq.", "Sec.", "No.")


def python_faults(source: str) -> Iterator[str]:
    """The faults of all docstrings and comments of a Python file, each with its line."""
    for line, text in (*docstrings(ast.parse(source)), *comments(source)):
        yield from faults(text, line)


def faults(text: str, first_line: int = 1) -> Iterator[str]:
    """The faults of a text in Markdown, each with its line. `first_line` is the number of the text's first line."""
    for line, sentence in sentences(text):
        count = len(re.findall(r"[A-Za-z][\w'-]*", sentence))
        if count > MAX_WORDS:
            yield f"{first_line + line}: {count} words: {sentence}"
        elif count > 5 and CLAUSE.match(sentence) and not sentence.endswith("?"):
            yield f"{first_line + line}: begins with a clause: {sentence}"


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """The sentences of a text in Markdown, each with the line of its paragraph, counted from 0."""
    for line, paragraph in paragraphs(text):
        start = 0
        plain = plain_words(paragraph)
        # A full stop ends a sentence. A colon or semicolon ends one where a capital or code follows.
        for end in re.finditer(r"[.!?][)\"']?\s+|[;:]\s+(?=[A-Z`(])", plain):
            if not plain[start : end.end()].rstrip().endswith(ABBREVIATIONS):
                yield line, plain[start : end.end()].strip()
                start = end.end()
        if plain[start:].strip():
            yield line, plain[start:].strip()


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """The paragraphs and list items of a text, each with its line, counted from 0."""
    begin, block = 0, []
    fenced = code = False
    after_blank = True
    for number, line in enumerate(text.splitlines()):
        stripped = line.strip()
        fence = stripped.startswith("```")
        fenced ^= fence
        # Indented lines are code after a blank line or more code. Those of "Args:" follow a line of text.
        code = line.startswith("    ") and (after_blank or code)
        after_blank = not stripped
        skipped = fenced or fence or code or not stripped or bool(NO_SENTENCE.match(stripped))
        if block and (skipped or LIST_ITEM.match(stripped) or ARGUMENT.match(line)):
            yield begin, " ".join(block)
            block = []
        if not skipped:
            begin = begin if block else number
            stripped = stripped[match.end() :] if (match := LIST_ITEM.match(stripped)) else stripped
            block.append(line[match.end() :] if (match := ARGUMENT.match(line)) else stripped)
    if block:
        yield begin, " ".join(block)


def plain_words(paragraph: str) -> str:
    """The paragraph with `x` for each piece of code, the text of each link, and no signs of emphasis."""
    words = re.sub(r"`[^`]*`", "`x`", paragraph)
    words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", words)
    return re.sub(r"(?<!\w)\*+(?=\S)|(?<=\S)\*+(?!\w)", "", words)


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
        alone = not token.line[: token.start[1]].strip()
        if block and not (row == last + 1 and alone):
            yield begin, "\n".join(block)
            block = []
        begin = begin if block else row
        block.append(text)
        last = row
    if block:
        yield begin, "\n".join(block)
