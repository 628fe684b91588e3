"""Results of the kernel benchmarks are compared like all others. Writing them needs nothing but PyTorch."""

from __future__ import annotations

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any

import gpu_results
import numpy as np
import pytest

from stylert.benchmarks.kernels.layers import table, work_of
from stylert.benchmarks.kernels.options import CONFIG_F, TINY
from stylert.benchmarks.kernels.results import DRY_RUN, measured_row, save_results
from stylert.benchmarks.kernels.whole_network import table as network_table
from stylert.benchmarks.machine.layer_operators import layer_operators
from stylert.benchmarks.machine.nvml import GpuWatch
from stylert.benchmarks.report.comparison import compare_results
from stylert.benchmarks.report.page import write_report
from stylert.benchmarks.report.tables import cells, columns
from stylert.benchmarks.schema import Row, read_results
from stylert.core.errors import InputError
from stylert.core.roofline import PeakRates

RATES = PeakRates({"float16": 100.0}, 1000.0, "measured")


def kernel_rows(rng: np.random.Generator, scale: float = 1.0, config: Any = CONFIG_F, batch: int = 1) -> list[Row]:
    """Rows of one layer in two forms, each of about `scale` milliseconds."""
    work = work_of(next(iter(layer_operators(config, (8,)))), batch, "float16")
    times = (scale * rng.uniform(0.99, 1.01, (2, 200))).tolist()
    details = {"tflops": 10.0, "gbps": 20.0, "of_tflops": 0.1, "of_bandwidth": 0.02, "error": 0.0}
    return [
        measured_row(work, form, "time", ms, 0.25, "cuda", None, details=details)
        for form, ms in zip(("kernel", "eager"), times, strict=True)
    ]


def save_and_read(path: Path, rows: list[Row]) -> tuple[str, dict[str, Any]]:
    save_results(path, "Kernels", "kernels.layers", rows, RATES)
    return path.name, read_results(path)


def test_results_of_two_machines_are_compared_layer_by_layer(rng: np.random.Generator, tmp_path: Path) -> None:
    first, second = (
        save_and_read(tmp_path / name, kernel_rows(rng, scale)) for name, scale in (("a.json", 1.0), ("b.json", 2.0))
    )
    (comparison,) = compare_results([first, second])
    assert [row.outcome for row in comparison.rows] == ["slower", "slower"]
    assert [round(row.difference.ratio, 1) for row in comparison.rows if row.difference] == [2.0, 2.0]
    assert comparison.unmatched == []


def test_rows_of_other_shapes_batches_or_networks_are_not_compared(rng: np.random.Generator, tmp_path: Path) -> None:
    first = save_and_read(tmp_path / "a.json", kernel_rows(rng))
    for other in (kernel_rows(rng, config=TINY), kernel_rows(rng, batch=4), network_rows(rng)):
        with pytest.raises(InputError, match="same work"):
            compare_results([first, save_and_read(tmp_path / "b.json", other)])


def network_rows(rng: np.random.Generator) -> list[Row]:
    work = {"model": "sg2-8", "kernel": "synthesis", "precision": "int8", "batch": 2}
    fields: dict[str, Any] = {"device": "cuda", "details": {"psnr_db": 60.0}}
    times, rates = rng.uniform(1.9, 2.1, 30).tolist(), rng.uniform(890, 910, 5).tolist()
    return [
        measured_row(work, "kernels", "p50", times, 0.1, gpu=GpuWatch(throttled={"power cap"}), **fields),
        measured_row(work, "kernels", "rate", rates, 20000.0, gpu=None, **fields),
    ]


def test_a_row_names_throttling_and_dry_runs_in_its_remarks(rng: np.random.Generator) -> None:
    time, rate = network_rows(rng)
    assert (time.unit, time.better, rate.unit, rate.better) == ("ms", "lower", "images/s", "higher")
    assert [remark for remark in time.remarks if "power cap" in remark]
    assert rate.remarks == []
    assert measured_row({"kernel": "k"}, "f", "time", [1.0, 2.0, 9.0], 0.1, "cpu", None).remarks == [DRY_RUN]
    assert measured_row({"kernel": "k"}, "f", "time", [1.0, 2.0, 9.0], 0.1, "cpu", None).value == 2.0


def test_a_table_has_one_line_for_all_forms_of_a_layer(rng: np.random.Generator) -> None:
    heads, line = table([*kernel_rows(rng)]).splitlines()
    assert heads.split()[0] == "layer"
    assert "(25%)" in line
    assert line.split()[-4:] == ["10.0", "(10%)", "20", "(2%)"]
    heads, line = network_table(network_rows(rng)).splitlines()
    assert line.split()[:4] == ["sg2-8", "kernels", "int8", "2"]
    assert line.split()[-1] == "60.0"


def test_the_results_of_all_stages_become_one_document(rng: np.random.Generator, tmp_path: Path, capsys: Any) -> None:
    assert gpu_results.main([str(tmp_path)]) == 2
    save_results(tmp_path / "kernels.json", "Kernels", "kernels.layers", kernel_rows(rng), RATES)
    save_results(
        tmp_path / "generator.json", "Network", "kernels.whole_network", network_rows(rng), RATES, notes=["one did not run"]
    )
    assert gpu_results.main([str(tmp_path)]) == 0
    merged = read_results(tmp_path / "results.json")
    assert [(row["scenario"], row["metric"]) for row in merged["rows"]] == [
        ("kernel", m) for m in ("time", "time", "p50", "rate")
    ]
    assert merged["conditions"]["generator"]["notes"] == ["one did not run"]
    assert compare_results([("a", merged), ("b", merged)])[0].unmatched == []
    assert all(len(cells(row)) == len(columns("kernel")) for row in merged["rows"])
    assert cells(merged["rows"][0])[:6] == [
        "modulated_conv2d",
        "b8.conv0",
        "512 to 512 channels, 8 px",
        "float16",
        "1",
        "kernel",
    ]
    assert cells(merged["rows"][2])[:2] == ["synthesis", "sg2-8"]
    write_report(merged, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "modulated_conv2d" in page
    assert "power cap" in page
    for broken in ("{", "[]", json.dumps({"rows": [{}]}), json.dumps({"kind": "stylert benchmark", "schema": 1})):
        (tmp_path / "kernels.json").write_text(broken)
        assert gpu_results.main([str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5
    assert all(line.startswith("error: ") for line in errors)


def test_results_are_written_without_psutil(rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent, find_spec, import_module = ("psutil",), importlib.util.find_spec, builtins.__import__

    def import_present(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(name)
        return import_module(name, *rest)

    with monkeypatch.context() as bare:
        bare.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else find_spec(name, *rest))
        bare.setattr(builtins, "__import__", import_present)
        save_results(tmp_path / "kernels.json", "Kernels", "kernels.layers", kernel_rows(rng), RATES)
        assert gpu_results.main([str(tmp_path)]) == 0
    assert len(read_results(tmp_path / "results.json")["rows"]) == 2
