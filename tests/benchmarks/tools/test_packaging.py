"""The wheel has none of the repository's own tools, results and tests."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]
#: Parts of the repository that users of the wheel do not need.
REPOSITORY_ONLY = ("benchmarks/tools", "benchmarks/results", "benchmarks/gpu_suite.sh", "tests", "docs", "examples")


def packaged_files() -> set[Path]:
    """The files that setuptools copies into the wheel: the modules of each package, and its package data."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    files = set()
    for package in settings["packages"]:
        folder = ROOT / settings["package-dir"][package]
        for pattern in ("*.py", *settings["package-data"].get(package, [])):
            files |= set(folder.glob(pattern))
    return files


def test_the_wheel_has_no_file_that_only_the_repository_needs() -> None:
    files = packaged_files()
    for name in REPOSITORY_ONLY:
        path = ROOT / name
        assert path.exists(), f"{name} is gone: remove it from this list"
        assert not [file for file in files if file == path or path in file.parents]


def test_the_wheel_has_the_modules_and_templates_of_the_reports() -> None:
    names = {file.relative_to(ROOT).as_posix() for file in packaged_files()}
    assert {"benchmarks/schema.py", "benchmarks/report/page.py", "benchmarks/report/report.html"} <= names
