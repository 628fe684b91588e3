"""A results file that is read can be shown: what its pages need stands in the document, or the file is refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.benchmarks.report import comparison, significance
from stylert.benchmarks.report.comparison import compare_results
from stylert.benchmarks.report.page import write_comparison, write_plots, write_report
from stylert.benchmarks.report.plots import import_pyplot
from stylert.benchmarks.report.tables import cells, weak_rows
from stylert.benchmarks.schema import MAX_LAYERS, MAX_ROWS, Results, Row, read_results, write_results
from stylert.core.errors import InputError

PERCENTILE = {"value": 2.0, "low": None, "high": 3.0}
DISTRIBUTION = {
    "runs": 3,
    "independent": 3,
    "min": 1.0,
    "mean": 2.0,
    "cv": 0.1,
    "drift": 0.0,
    "spread": 0.0,
    "percentiles": {"50": PERCENTILE, "99": PERCENTILE},
}
#: The least that a row of each scenario has.
LEAST: dict[str, dict[str, Any]] = {
    "single-stream": {"images_per_s": 500.0},
    "offline": {"work": {"model": "m", "batch": 4}, "distribution": DISTRIBUTION},
    "server": {"work": {"model": "m", "p99_ms": 50}, "distribution": DISTRIBUTION},
    "cold-start": {},
    "build": {"details": {"engine_bytes": 4096}},
    "kernel": {"work": {"kernel": "modulated_conv2d"}},
    "training": {"work": {"preset": "cpu", "resolution": 16}},
    "peer": {},
}


def row(scenario: str, **changes: Any) -> dict[str, Any]:
    least = {
        "scenario": scenario,
        "work": {"model": "m"},
        "setup": {"backend": "onnxruntime"},
        "metric": "latency",
        "unit": "ms",
        "better": "lower",
        "value": 2.0,
        "rounds": [[1.0, 2.0, 3.0]],
        "distribution": None,
        "remarks": [],
    }
    return least | LEAST[scenario] | changes


def profile(*names: str, **changes: Any) -> dict[str, Any]:
    layers = [{"layer": name, "value": 1.0, "nodes": 1} for name in names]
    work = {"model": "m", "precision": "fp32"}
    return {"work": work, "setup": {"backend": "b"}, "unit": "ms", "total": 1.0, "method": "m", "layers": layers} | changes


def document(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    machine = {"cpu": "c", "cores": 1, "isa": [], "memory_gib": 1, "system": "s", "python": "3", "packages": {}, "gpu": None}
    return {
        "schema": 2,
        "kind": "stylert benchmark",
        "title": "t",
        "created": "2026-11-30T00:00:00Z",
        "stylert": "0.1.0",
        "command": [],
        "machine": machine,
        "conditions": {},
        "rows": list(rows),
        "models": {"m": {"resolution": 16, "parameters": 1, "macs": 1, "weights": "w"}},
    } | changes


def read(folder: Path, content: dict[str, Any] | str) -> dict[str, Any]:
    path = folder / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_results(path)


def show(folder: Path, content: dict[str, Any]) -> str:
    """Everything that is made of a results file. Returns its page."""
    read_content = read(folder, content)
    for line in read_content["rows"]:
        cells(line, read_content["accuracy"])
    weak_rows(read_content["rows"])
    write_report(read_content, folder / "page.html")
    write_plots(read_content, folder)
    if read_content["rows"]:
        documents = [("a", read_content), ("b", read_content)]
        write_comparison(compare_results(documents), documents, folder / "comparison.html")
    return (folder / "page.html").read_text()


@pytest.mark.parametrize("scenario", LEAST)
def test_the_least_document_of_each_scenario_is_shown(tmp_path: Path, scenario: str) -> None:
    assert scenario.split("-")[0] in show(tmp_path, document(row(scenario)))


def test_results_of_a_model_whose_name_is_not_utf_8_are_written_and_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    made = Row(**row("single-stream", work={"model": name}, images_per_s=None) | LEAST["single-stream"])
    models = {name: document()["models"]["m"]}
    written = write_results(Results(name, [made], models=models, command=["stylert", "bench", name]), tmp_path / "r.json")
    content = read_results(tmp_path / "r.json")
    assert content["command"][2] == content["rows"][0]["work"]["model"] == r"caf\xe9"
    write_report(written, tmp_path / "page.html")
    write_plots(written, tmp_path)
    documents = [(name, content), (name, content)]
    write_comparison(compare_results(documents), documents, tmp_path / "comparison.html")
    assert r"caf\xe9" in (tmp_path / "comparison.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("images_per_s", row("single-stream", images_per_s=None)),
        ("work.batch", row("offline", work={"model": "m"})),
        ("batch", row("offline", work={"batch": [1]})),
        ("percentile 50", row("offline", distribution=None)),
        ("work.p99_ms", row("server", work={"model": "m"})),
        ("percentile 99", row("server", distribution=None)),
        ("details.engine_bytes", row("build", details={})),
        ("engine_bytes", row("build", details={"engine_bytes": "x"})),
        ("psnr_db", row("peer", details={"psnr_db": "x"})),
        ("work.preset", row("training", work={"model": "m"})),
        ("needs its resolution", row("training", work={"preset": "cpu"})),
        ("backend", row("peer", setup={})),
        ("model", row("peer", work={"model": {"a": 1}})),
        ("rounds", row("peer", rounds=[[]])),
        ("rounds", row("peer", rounds=[[0]])),
        ("rounds", row("peer", rounds=[[1e300], [1e-300], [1.0]])),
        ("scenario", row("peer") | {"scenario": "sprint"}),
    ],
)
def test_a_row_without_what_its_tables_show_is_refused_by_name(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=name) as e:
        read(tmp_path, document(change))
    assert "rows[0]" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("layers", {"layers": [profile("styles", setup={})]}),
        ("layers", {"layers": [profile("styles", work={})]}),
        ("engines", {"engines": [{"key": {}}]}),
        ("accuracy", {"accuracy": [{"model": "m"}]}),
        ("GPU", {"machine": document()["machine"] | {"gpu": {"memory": 1}}}),
        ("times faster", {"conditions": {"times faster": {"x": {"ratio": 0}}}}),
        ("pictures", {"pictures": [{"file": "../a.png", "caption": "x"}]}),
        ("rows", {"rows": [row("peer", work={"n": i}) for i in range(MAX_ROWS + 1)]}),
        ("layers", {"layers": [profile(*map(str, range(MAX_LAYERS + 1)))]}),
    ],
)
def test_a_part_without_what_its_page_shows_is_refused_by_name(tmp_path: Path, place: str, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=place) as e:
        read(tmp_path, document(row("peer")) | change)
    assert "\n" not in str(e.value)


def test_names_that_look_like_formulas_or_layers_are_shown_as_they_are(tmp_path: Path) -> None:
    name = "a$\\frac{$ $x_{ $ 100 %"
    rows = [row("offline", work={"model": name, "batch": batch}) for batch in (1, 2)]
    rows.append(row("single-stream", work={"model": name}))
    layers = [
        profile("bias", "b8", "b8.conv0.weight", "bx.conv0", "b²8.x", "$b{$", "styles", work={"model": name, "precision": ""})
    ]
    page = show(tmp_path, document(*rows, layers=layers))
    assert page.count("<svg") == 3
    assert page.count(name) > 5


def test_no_text_of_a_plot_is_a_formula() -> None:
    assert not import_pyplot().rcParams["text.parse_math"]


def test_a_bound_of_zero_has_no_share(tmp_path: Path) -> None:
    for better in ("lower", "higher"):
        assert "–" in show(tmp_path, document(row("peer", floor=0, better=better)))


def test_a_bootstrap_draws_from_a_bounded_number_of_runs(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    lengths: list[int] = []

    def medians(series: np.ndarray, _: np.random.Generator) -> np.ndarray:
        lengths.append(len(series))
        return np.ones(2)

    monkeypatch.setattr(significance, "_block_medians", medians)
    series = rng.lognormal(size=300_000)
    found = significance.compare([list(series)], [list(2 * series)])
    assert found.ratio == pytest.approx(2)
    assert max(lengths) <= significance.MAX_SERIES
    lengths.clear()
    many = [row("peer", work={"n": i}, rounds=[[1.0] * 5000]) for i in range(200)]
    compare_results([("a", document(*many)), ("b", document(*many))])
    assert len(lengths) == 2 * 200
    assert sum(lengths) <= 2 * comparison.BOOTSTRAP_RUNS


def test_the_interval_of_a_long_series_is_not_narrower_than_that_of_all_runs(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    a, b = ([list(rng.lognormal(size=4000))] for _ in range(2))
    whole, thinned = significance.compare(a, b), significance.compare(a, b, max_series=250)
    assert whole.ratio == thinned.ratio
    assert thinned.high / thinned.low > whole.high / whole.low
