"""docs/performance.md and README.md agree with the committed results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from performance_page import main, page, read_all

from stylert.benchmarks.report.summary import summaries

ROOT = Path(__file__).parents[3]


def test_the_committed_page_is_up_to_date(tmp_path: Path) -> None:
    main(["--results", str(ROOT / "benchmarks" / "results"), "--out", str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text() == (ROOT / "docs" / "performance.md").read_text(), (
        "run: python benchmarks/tools/performance_page.py"
    )


def test_the_readme_has_the_summary_of_the_newest_machine() -> None:
    by_machine = summaries([document for _, document in read_all(ROOT / "benchmarks" / "results")])
    tables = next(iter(by_machine.values()))
    assert tables in (ROOT / "README.md").read_text(), "copy the tables under `In short` of docs/performance.md"


def test_a_summary_takes_the_better_form_and_the_newest_run() -> None:
    def row(model: str, form: str, engine: str, ms: float) -> dict[str, Any]:
        kind = "ours" if form == "stylert" else "peer"
        work, setup = {"model": model, "precision": "fp32"}, {"backend": engine, "form": form}
        return {"scenario": "peer", "work": work, "setup": setup, "value": ms, "details": {"kind": kind, "psnr_db": 50.04}}

    def document(created: str, faster: dict[str, float], *rows: dict[str, Any]) -> dict[str, Any]:
        models = {r["work"]["model"]: {"resolution": int(r["work"]["model"])} for r in rows}
        ratios = {what: {"ratio": ratio, "low": ratio / 2, "high": None, "cycles": 9} for what, ratio in faster.items()}
        machine = {"cpu": "a machine", "cores": 2}
        return {"created": created, "machine": machine, "models": models, "rows": rows, "conditions": {"times faster": ratios}}

    large = document("2026-01-03", {"64, best": 2.0}, row("64", "grouped", "eager", 900), row("64", "scaled", "eager", 800))
    old = document("2026-01-01", {"8, best": 9.0}, row("8", "scaled", "eager", 1))
    new = document("2026-01-02", {"8, best": 4.0}, row("8", "scaled", "eager", 20), row("8", "stylert", "onnxruntime", 5))
    training = document("2026-01-04", {"training": 3.0})
    assert summaries([large, new, old, training]) == {
        "a machine, 2 cores": """\
| form | on | precision | 8, ms | PSNR dB | 64, ms | PSNR dB |
| --- | --- | --- | ---: | ---: | ---: | ---: |
| textbook | PyTorch eager | fp32 | 20 | 50.0 | 800 | 50.0 |
| stylert | ONNX Runtime | fp32 | 5 | 50.0 | – | – |

| times as fast [95 %] | 8 | 64 |
| --- | ---: | ---: |
| best | 4.00 [2.00, ?] | 2.00 [1.00, ?] |
"""
    }
    assert summaries([training]) == {}
    later = document("2026-01-05", {}, row("8", "scaled", "eager", 2)) | {"machine": {"cpu": "another", "cores": 4}}
    assert list(summaries([large, later, old])) == ["another, 4 cores", "a machine, 2 cores"]


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


def test_a_folder_without_results_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main(["--results", str(tmp_path), "--out", str(tmp_path / "page.md")])
    assert e.value.code == 2
    assert "holds no results" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
