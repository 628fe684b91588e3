"""The pages are true: every `sh` and `python` block runs, every link and every named file exists, every decision is listed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = ("core", "plugins", "models", "train", "runtime", "export", "benchmarks", "cli")
RECORDS = sorted(page for page in (ROOT / "docs" / "decisions").glob("*.md") if page.name != "README.md")


def blocks(page: Path) -> list[tuple[str, str]]:
    """`(language, text)` of the fenced blocks that are to be run, in order."""
    return re.findall(r"^```(sh|python)\n(.*?)^```", page.read_text(), re.M | re.S)


@pytest.mark.long
@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_of_a_page_works_in_order(page: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "XDG_CONFIG_HOME": str(tmp_path / "settings"),  # a page that makes a key signs nothing of another page
    }
    for language, text in blocks(page):
        command = ["sh", "-ec", text] if language == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_local_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    for link in links:
        assert "://" in link or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_and_folder_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    roots = "|".join((*ROOMS, "docs", "examples", "tests"))
    for path in re.findall(rf"`((?:{roots})/[\w./-]*)`", page.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("record", RECORDS, ids=lambda p: p.stem)
def test_every_decision_has_the_headings_of_a_record_and_the_name_of_a_room(record: Path) -> None:
    text = record.read_text()
    assert re.match(r"# .+\n\n(Date: \d{4}-\d\d-\d\d\n\n)?## Context\n", text)
    assert re.sub(r"\b(Options|Figures) ", "", " ".join(re.findall(r"^## (\w+)$", text, re.M))) == "Context Decision"
    assert text.index("## Decision") > max(text.find("## Figures"), text.find("## Options"))
    assert record.name.split("-")[0] in (*ROOMS, "tests")


def test_the_list_of_decisions_has_every_record_with_its_title_under_its_room() -> None:
    listed, room = [], ""
    for line in (ROOT / "docs" / "decisions" / "README.md").read_text().splitlines():
        if line.startswith("## "):
            room = line.removeprefix("## ")
        elif entry := re.fullmatch(r"- \[(.+)\]\((.+)\)", line):
            listed.append((room, entry[1], entry[2]))
    titles = {record: record.read_text().splitlines()[0].removeprefix("# ") for record in RECORDS}
    assert sorted(listed) == sorted((record.name.split("-")[0], title, record.name) for record, title in titles.items())


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([a-z-]+)", (ROOT / page).read_text()):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    commands = (ROOT / ".ci" / "run").read_text()
    for target in ("test", "test-long"):
        assert f"make {target}" in (ROOT / "README.md").read_text()
        assert f"\nmake {target} " in commands
