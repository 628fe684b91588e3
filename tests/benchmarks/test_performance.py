"""The page of figures says what the committed results say."""

from __future__ import annotations

from pathlib import Path

import pytest

from stylert.benchmarks.performance import main, page, read_all

ROOT = Path(__file__).parents[2]


def test_the_page_is_made_from_the_committed_results(tmp_path: Path) -> None:
    main(["--results", str(ROOT / "benchmarks" / "results"), "--out", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == (ROOT / "docs" / "performance.md").read_text(), (
        "run: python -m stylert.benchmarks.performance"
    )


def test_every_row_and_every_remark_is_on_the_page() -> None:
    documents = read_all(ROOT / "benchmarks" / "results")
    text = page(documents)
    for name, document in documents:
        assert f"## {name}" in text
        for what, ratio in document["conditions"].get("times faster", {}).items():
            assert f"- {what}: {ratio['ratio']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}] times as fast" in text
        for row in document["rows"]:
            for remark in row["remarks"]:
                assert remark.partition(": ")[2] in text


def test_no_results_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main(["--results", str(tmp_path), "--out", str(tmp_path / "page.md")])
    assert e.value.code == 2
    assert "holds no results" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
