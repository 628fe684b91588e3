"""A run of the suite has a row for every combination, and its results, report and comparison agree."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stylert.benchmarks import suite
from stylert.benchmarks.machine.interference import watch
from stylert.benchmarks.models import user_model
from stylert.benchmarks.report.comparison import compare_results
from stylert.benchmarks.report.page import write_comparison, write_plots, write_report
from stylert.benchmarks.report.tables import cells, columns
from stylert.benchmarks.scenarios import runner as scenarios
from stylert.benchmarks.scenarios.measure import Configuration, Round
from stylert.benchmarks.scenarios.runner import SCENARIOS, Effort, single_stream
from stylert.benchmarks.schema import Document, Results, read_results, row_name, to_json, validate, write_results
from stylert.benchmarks.suite import Matrix, configurations, run_suite
from stylert.core.errors import InputError
from stylert.core.roofline import PeakRates
from stylert.runtime.bundle import Bundle

QUICK = Effort(seconds=0.02, runs=6, rounds=3, server_requests=20, target_ms=200, starts=1, builds=2)
CEILING = PeakRates({"float32": 1.0, "int8": 4.0}, 100.0, "made up")


@pytest.fixture(scope="module")
def measured(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with results of every scenario, measured in this process."""
    folder = tmp_path_factory.mktemp("bench")
    matrix = Matrix(["onnxruntime"], batches=(1, 2), threads=1, scenarios=SCENARIOS, seeds=2)
    with pytest.MonkeyPatch.context() as patch:
        for module in (scenarios, suite):
            patch.setattr(module, "in_new_process", lambda function, *arguments: function(*arguments))
        patch.setattr(suite, "measure_peak_rates", lambda threads: CEILING)
        results = run_suite([user_model(bundle.path)], matrix, QUICK, folder)
    return folder, write_results(results, folder / "results.json")


def test_every_combination_has_a_row(measured: tuple[Path, dict[str, Any]]) -> None:
    rows = measured[1]["rows"]
    found = sorted((r["scenario"], r["work"]["precision"], r["work"].get("batch")) for r in rows)
    expected = [(s, p, 1) for s in ("single-stream", "server", "cold-start") for p in ("fp32", "int8")]
    expected += [("offline", p, b) for p in ("fp32", "int8") for b in (1, 2)]
    expected += [("build", p, None) for p in ("fp32", "int8")]
    assert found == sorted(expected, key=lambda e: (e[0], e[1], e[2] or 0))


def test_a_run_that_ends_early_has_saved_every_measured_row(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    for module in (scenarios, suite):
        monkeypatch.setattr(module, "in_new_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(suite, "_profile_layers", interrupted)
    matrix = Matrix(["onnxruntime"], ["fp32"], (1, 2), threads=1, scenarios=("single-stream", "offline"), ceilings=False)
    out = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        run_suite([user_model(bundle.path)], matrix, QUICK, save=lambda results: write_results(results, out))
    assert [r["scenario"] for r in read_results(out)["rows"]] == ["single-stream", "offline", "offline"]


def test_a_run_that_ends_during_a_round_has_saved_the_finished_rounds(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def interrupted(function: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:  # with two batch sizes, the middle of the second round
            raise KeyboardInterrupt
        return function(*arguments)

    monkeypatch.setattr(scenarios, "in_new_process", interrupted)
    matrix = Matrix(["onnxruntime"], ["fp32"], (1, 2), threads=1, scenarios=("single-stream", "offline"), ceilings=False)
    out = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        run_suite([user_model(bundle.path)], matrix, QUICK, save=lambda results: write_results(results, out))
    rows = {(r["scenario"], r["work"]["batch"]): len(r["rounds"]) for r in read_results(out)["rows"]}
    assert rows == {("single-stream", 1): 2, ("offline", 1): 2, ("offline", 2): 1}


def test_the_values_of_rows_agree_with_their_samples(measured: tuple[Path, dict[str, Any]]) -> None:
    for row in measured[1]["rows"]:
        samples = [v for r in row["rounds"] for v in r]
        d = row["distribution"]
        if row["scenario"] == "single-stream":
            assert len(row["rounds"]) == QUICK.rounds
            assert d["runs"] == len(samples) >= QUICK.runs
            assert row["value"] == pytest.approx(np.median(samples), rel=1e-4)
            assert row["images_per_s"] == pytest.approx(1000 / np.mean(samples), rel=1e-4)
            assert any(r.startswith("short") for r in row["remarks"])  # six runs are too few
            assert row["floor"] > 0
        if row["scenario"] == "offline":
            assert d["runs"] * row["work"]["batch"] >= QUICK.runs
            assert row["value"] == pytest.approx(1000 * row["work"]["batch"] / d["mean"], rel=1e-4)
        if row["scenario"] == "server":
            trials = row["details"]["trials"]
            assert row["value"] == max((t["rate"] for t in trials if t["holds"]), default=0)
            assert len(trials) >= 1
        if row["scenario"] == "cold-start":
            assert sum(row["phases_ms"][n] for n in ("import", "load", "first_image")) < row["value"]
        if row["scenario"] == "build":
            assert row["details"]["engine_bytes"] > 1000
        if row["scenario"] != "server":
            assert 10 < row["peak_memory_mib"] < 8000


def test_a_note_of_the_backend_is_one_remark_however_many_processes_have_it(tmp_path: Path) -> None:
    with watch() as watched:
        pass
    assert watched.interference is not None
    silent = Round([1.0, 1.1, 1.2], 0.1, True, "1.0", 100.0, watched.interference)
    with_note = dataclasses.replace(silent, remarks=("without a CUDA graph, because capturing one failed",))
    configuration = Configuration("own", tmp_path, "torch", "fp32")
    for rounds, times in (([silent, silent], 0), ([silent, with_note, with_note], 1)):
        row = single_stream(configuration, {"model": "own"}, rounds)
        assert row.remarks.count(with_note.remarks[0]) == times


def test_a_measured_build_leaves_no_engine_in_the_bundle(measured: tuple[Path, dict[str, Any]], bundle: Bundle) -> None:
    assert not (bundle.path / "engines").exists()


def test_layer_times_have_the_names_of_the_layers_and_add_up_to_the_total(measured: tuple[Path, dict[str, Any]]) -> None:
    profiles = measured[1]["layers"]
    assert [p["work"]["precision"] for p in profiles] == ["fp32", "int8"]
    convolutions = {"b4.conv1", "b8.conv0", "b8.conv1", "b16.conv0", "b16.conv1"}
    for p in profiles:
        times = {layer["layer"]: layer for layer in p["layers"]}
        assert convolutions | {"styles", "b4.torgb", "b8.skip", "b16.torgb", "image"} <= set(times)
        assert p["total"] == pytest.approx(sum(layer["value"] for layer in p["layers"]), rel=1e-3)
        assert all(times[name]["floor"] > 0 for name in convolutions)
        # Modulation, convolution, demodulation, noise, bias and activation belong to the layer, however they are fused.
        assert all(times[name]["nodes"] >= 4 for name in convolutions), times


def test_reading_results_gives_what_was_written(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, document = measured
    assert read_results(folder / "results.json") == document
    assert json.loads(to_json(document)) == document


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))  # fmt: skip
def test_lists_of_numbers_on_one_line_do_not_change_the_json(value: Any) -> None:
    assert json.loads(to_json({"value": value})) == {"value": value}


def test_a_damaged_file_is_reported_in_one_line(measured: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    document = measured[1]
    cases = {
        "nothing": ("", "is not valid"),
        "nan": ("NaN", "is not valid"),
        "list": ("[]", "is not valid"),
        "other": ("{}", "is not a benchmark of stylert"),
        "older": (json.dumps(document | {"schema": 1}), "has schema 1; this stylert reads schema 2"),
        "renamed": (json.dumps({k.replace("rows", "row"): v for k, v in document.items()}), "missing required field `rows`"),
        "word": (json.dumps(document | {"rows": [document["rows"][0] | {"value": "fast"}]}), r"rows\[0\]"),
    }
    for name, (text, message) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message) as e:
            read_results(tmp_path / name)
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="does not exist"):
        read_results(tmp_path / "absent")


def test_the_document_that_is_read_has_every_field_that_is_written(measured: tuple[Path, dict[str, Any]]) -> None:
    names = {f.name for f in fields(Document)}
    assert names == set(measured[1])
    assert {f.name for f in fields(Results)} <= names


def test_equal_results_do_not_differ(measured: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    document = measured[1]
    (comparison,) = compare_results([("a", document), ("b", copy.deepcopy(document))])
    assert {row.outcome for row in comparison.rows} <= {"no significant difference", "too few samples"}
    assert len(comparison.rows) == len(document["rows"])
    assert comparison.unmatched == []


def test_results_of_a_machine_half_as_fast_are_slower_in_every_unit(
    measured: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    first = copy.deepcopy(measured[1])
    for row in first["rows"]:  # steady rounds, which do not depend on this machine
        row["rounds"] = [[row["value"] * f] * 3 for f in (1.0, 1.01, 0.99)] if row["value"] else []
    second = copy.deepcopy(first)
    for row in second["rows"]:
        factor = 2 if row["better"] == "lower" else 0.5
        row["rounds"], row["value"] = [[v * factor for v in r] for r in row["rounds"]], row["value"] * factor
    documents = [("a", first), ("b", second)]
    (comparison,) = compare_results(documents)
    assert {row.outcome for row in comparison.rows if row.difference} == {"slower"}
    (back,) = compare_results(documents[::-1])
    assert {row.outcome for row in back.rows if row.difference} == {"faster"}
    write_comparison([comparison], documents, tmp_path / "page.html")
    assert "slower" in (tmp_path / "page.html").read_text()


def test_different_work_is_not_compared(measured: tuple[Path, dict[str, Any]]) -> None:
    document = measured[1]
    other = copy.deepcopy(document)
    for model in other["models"].values():
        model["weights"] = "0" * 16
    with pytest.raises(InputError, match="different networks by the name"):
        compare_results([("a", document), ("b", other)])
    other = copy.deepcopy(document)
    other["models"] = {}
    for row in other["rows"]:
        row["work"]["resolution"] = 1024
    with pytest.raises(InputError, match="no measurement of the same work"):
        compare_results([("a", document), ("b", other)])
    with pytest.raises(InputError, match="at least two"):
        compare_results([("a", document)])
    other = copy.deepcopy(document)
    other["rows"] = other["rows"][:1]
    other["rows"][0]["remarks"] = ["unstable: it rained"]
    (comparison,) = compare_results([("a", document), ("b", other)])
    assert [row.weak for row in comparison.rows] == [True]
    name, scenario = row_name(other["rows"][0]), other["rows"][0]["scenario"]
    assert f"b: {name} ({scenario}): unstable: it rained" in comparison.weak_rows
    only_first = document["rows"][1:]
    assert len(comparison.unmatched) == len({row["scenario"] for row in only_first})
    for row in only_first:
        prefix = f"a, {row['scenario']}: "
        assert any(line.startswith(prefix) and row_name(row) in line for line in comparison.unmatched)


def test_the_report_is_one_file_and_shows_every_row(measured: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, document = measured
    document = document | {"title": "<script>alert(1)</script>"}
    write_report(document, tmp_path / "report.html", folder)
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    for row in document["rows"]:
        for cell in cells(row, document["accuracy"]):
            assert cell in page
    assert page.count("data:image/png;base64,") == 2
    assert page.count("<svg") == 3
    for outside in ('src="http', 'href="http', "url(http", "<link", "@import"):
        assert outside not in page
    files = write_plots(document, tmp_path)
    assert [f.name for f in files] == ["latency.png", "throughput.png", "layers.png"]
    assert all(f.read_bytes().startswith(b"\x89PNG") for f in files)


def test_a_row_has_a_cell_for_each_head(measured: tuple[Path, dict[str, Any]]) -> None:
    for row in measured[1]["rows"]:
        assert len(cells(row, [])) == len(columns(row["scenario"]))


def test_a_wrong_matrix_is_refused_before_anything_is_measured(bundle: Bundle) -> None:
    models = [user_model(bundle.path)]
    for matrix, message in (
        (Matrix(batches=(0,)), "batch"),
        (Matrix(batches=()), "batch"),
        (Matrix(forms=("fused",)), "unknown form"),
        (Matrix(["cuda"]), "unknown backend"),
        (Matrix(precisions=("fp16",)), "fp16"),
        (Matrix(["onnxruntime"], forms=("portable",)), "none of these"),
    ):
        with pytest.raises(InputError, match=message):
            configurations(models, matrix)
    with pytest.raises(InputError, match="unknown scenario"):
        list(scenarios.run_scenarios([], {}, ["offlne"], QUICK))
    for wrong in ({"rounds": 0}, {"seconds": 0.0}, {"target_ms": float("nan")}):
        with pytest.raises(InputError):
            Effort(**wrong)


def test_the_documents_of_all_benchmarks_are_valid(measured: tuple[Path, dict[str, Any]]) -> None:
    validate(measured[1], "results")


@pytest.mark.slow
def test_each_round_of_a_row_is_measured_in_a_process_of_its_own(bundle: Bundle) -> None:
    matrix = Matrix(["onnxruntime"], ["int8"], (1,), scenarios=("single-stream",), ceilings=False, layers=False, seeds=0)
    results = run_suite([user_model(bundle.path)], matrix, Effort(seconds=0.02, runs=4, rounds=2))
    (row,) = results.rows
    assert len(row.rounds) == 2
    assert row.disturbance is not None
