"""Docstrings, comments and pages read at the first reading: short sentences that begin with their subject."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prose import MAX_WORDS, faults, python_faults, sentences

ROOT = Path(__file__).parent.parent
FOLDERS = ("core", "plugins", "models", "train", "runtime", "export", "benchmarks", "cli", "examples", "tests")
#: `docs/performance.md` is made by a program from results.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "performance.md"),
]


@pytest.mark.parametrize("folder", FOLDERS)
def test_sentences_of_code_are_short_and_begin_with_their_subject(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    problems = [f"{file.relative_to(ROOT)}:{fault}" for file in files for fault in python_faults(file.read_text())]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_of_pages_are_short_and_begin_with_their_subject(page: Path) -> None:
    problems = [f"{page.relative_to(ROOT)}:{fault}" for fault in faults(page.read_text())]
    assert not problems, "\n".join(problems)


def test_a_long_sentence_is_found_with_its_line() -> None:
    long = " ".join(["word"] * (MAX_WORDS + 1)) + "."
    assert list(faults(f"One.\n\nTwo. {long}\n")) == [f"3: {MAX_WORDS + 1} words: {long}"]
    assert list(python_faults(f'"""One."""\n\nx = 1  # Two.\n# {long}\n')) == [f"3: {MAX_WORDS + 1} words: {long}"]


@pytest.mark.parametrize("word", ["What", "That", "Where", "**What", "*Which", "_"])
def test_a_clause_as_the_subject_is_found_unless_it_asks(word: str) -> None:
    clause = f"{word} is not here is left out of the sum"
    problems = list(faults(f"The sum is short. {clause.replace('_', 'The part that')}."))
    assert len(problems) == (word != "_")
    assert not list(faults(f"{clause}?"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Args:\n    x: A sum of words.\n\n    y = a + b\n\n| a | b |\n", ["A sum of words."]),
        ("# A title. Of two\n\n**One.** `two` is two. stylert is three!", ["One.", "`x` is two.", "stylert is three!"]),
        ("By e.g. Karras et al. (2020). See [a page. Or two](x.md) now.", ["By e.g. Karras et al. (2020).", "See a page.", "Or two now."]),
        ("- One\n  item.\n- Another\n1. Third (whole.) Fourth 1.5 x*y", ["One item.", "Another", "Third (whole.)", "Fourth 1.5 x*y"]),
        ("A list: One. And: two; three.\n```sh\nls. What\n```\nEnd", ["A list:", "One.", "And: two; three.", "End"]),
        ("    code. Here\n\nText\n| a. B |\nmore", ["Text", "more"]),
    ],
)  # fmt: skip
def test_sentences_are_split_at_their_ends_alone(text: str, expected: list[str]) -> None:
    assert [sentence for _, sentence in sentences(text)] == expected
