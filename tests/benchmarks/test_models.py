"""The cache of standard models depends on sources that exist."""

from __future__ import annotations

from pathlib import Path

from stylert.benchmarks import models

ROOT = Path(__file__).parents[2]


def test_every_source_of_a_bundle_exists() -> None:
    assert all((ROOT / name).exists() for name in models.BUNDLE_SOURCES)
