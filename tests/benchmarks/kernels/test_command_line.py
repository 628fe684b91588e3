"""Results of the kernel benchmarks are compared like all others, and are written where nothing but PyTorch is installed."""

from __future__ import annotations

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any

import gpu_results
import numpy as np
import pytest

from stylert.benchmarks.kernels.command_line import CONFIG_F, DRY_RUN, TINY, measured_row, save
from stylert.benchmarks.kernels.generator import table as network_table
from stylert.benchmarks.kernels.layers import table, work_of
from stylert.benchmarks.machine.nvml import GpuWatch
from stylert.benchmarks.machine.roofline import Ceiling, cases
from stylert.benchmarks.report.compare import compare_results
from stylert.benchmarks.report.page import write_report
from stylert.benchmarks.report.tables import cells, columns
from stylert.benchmarks.schema import Row, read_results
from stylert.core.errors import InputError

CEILING = Ceiling({"float16": 100.0}, 1000.0, "measured")


def kernel_rows(rng: np.random.Generator, scale: float = 1.0, config: Any = CONFIG_F, batch: int = 1) -> list[Row]:
    """A layer in two forms, a millisecond each, times `scale`."""
    work = work_of(next(iter(cases(config, (8,)))), batch, "float16")
    times = (scale * rng.uniform(0.99, 1.01, (2, 200))).tolist()
    details = {"tflops": 10.0, "gbps": 20.0, "of_tflops": 0.1, "of_bandwidth": 0.02, "error": 0.0}
    return [
        measured_row(work, form, "time", ms, 0.25, "cuda", None, details=details)
        for form, ms in zip(("kernel", "eager"), times, strict=True)
    ]


def written(path: Path, rows: list[Row]) -> tuple[str, dict[str, Any]]:
    save(path, "Kernels", "kernels.layers", rows, CEILING)
    return path.name, read_results(path)


def test_two_machines_are_compared_by_the_same_layers(rng: np.random.Generator, tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, kernel_rows(rng, scale)) for name, scale in (("a.json", 1.0), ("b.json", 2.0)))
    (found,) = compare_results([first, second])
    assert [line.verdict for line in found.lines] == ["slower", "slower"]
    assert [round(line.difference.ratio, 1) for line in found.lines if line.difference] == [2.0, 2.0]
    assert found.only == []


def test_other_shapes_batches_and_networks_are_other_work(rng: np.random.Generator, tmp_path: Path) -> None:
    mine = written(tmp_path / "a.json", kernel_rows(rng))
    for other in (kernel_rows(rng, config=TINY), kernel_rows(rng, batch=4), network_rows(rng)):
        with pytest.raises(InputError, match="same work"):
            compare_results([mine, written(tmp_path / "b.json", other)])


def network_rows(rng: np.random.Generator) -> list[Row]:
    work = {"model": "sg2-8", "kernel": "synthesis", "precision": "int8", "batch": 2}
    named: dict[str, Any] = {"device": "cuda", "details": {"psnr_db": 60.0}}
    times, rates = rng.uniform(1.9, 2.1, 30).tolist(), rng.uniform(890, 910, 5).tolist()
    return [
        measured_row(work, "kernels", "p50", times, 0.1, gpu=GpuWatch(throttled={"power cap"}), **named),
        measured_row(work, "kernels", "rate", rates, 20000.0, gpu=None, **named),
    ]


def test_rows_say_what_speaks_against_them(rng: np.random.Generator) -> None:
    time, rate = network_rows(rng)
    assert (time.unit, time.better, rate.unit, rate.better) == ("ms", "lower", "images/s", "higher")
    assert [remark for remark in time.remarks if "power cap" in remark]
    assert rate.remarks == []
    assert measured_row({"kernel": "k"}, "f", "time", [1.0, 2.0, 9.0], 0.1, "cpu", None).remarks == [DRY_RUN]
    assert measured_row({"kernel": "k"}, "f", "time", [1.0, 2.0, 9.0], 0.1, "cpu", None).value == 2.0


def test_tables_have_a_line_per_case(rng: np.random.Generator) -> None:
    heads, line = table([*kernel_rows(rng)]).splitlines()
    assert heads.split()[0] == "layer"
    assert "(25%)" in line
    assert line.split()[-4:] == ["10.0", "(10%)", "20", "(2%)"]
    heads, line = network_table(network_rows(rng)).splitlines()
    assert line.split()[:4] == ["sg2-8", "kernels", "int8", "2"]
    assert line.split()[-1] == "60.0"


def test_the_stages_of_the_suite_become_one_result(rng: np.random.Generator, tmp_path: Path, capsys: Any) -> None:
    assert gpu_results.main([str(tmp_path)]) == 2
    save(tmp_path / "kernels.json", "Kernels", "kernels.layers", kernel_rows(rng), CEILING)
    save(tmp_path / "generator.json", "Network", "kernels.generator", network_rows(rng), CEILING, notes=["one did not run"])
    assert gpu_results.main([str(tmp_path)]) == 0
    found = read_results(tmp_path / "results.json")
    assert [(row["scenario"], row["metric"]) for row in found["rows"]] == [
        ("kernel", m) for m in ("time", "time", "p50", "rate")
    ]
    assert found["conditions"]["generator"]["notes"] == ["one did not run"]
    assert compare_results([("a", found), ("b", found)])[0].only == []
    assert all(len(cells(row)) == len(columns("kernel")) for row in found["rows"])
    assert cells(found["rows"][0])[:6] == [
        "modulated_conv2d",
        "b8.conv0",
        "512 to 512 channels, 8 px",
        "float16",
        "1",
        "kernel",
    ]
    assert cells(found["rows"][2])[:2] == ["synthesis", "sg2-8"]
    write_report(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "modulated_conv2d" in page
    assert "power cap" in page
    for broken in ("{", "[]", json.dumps({"rows": [{}]}), json.dumps({"kind": "stylert benchmark", "schema": 1})):
        (tmp_path / "kernels.json").write_text(broken)
        assert gpu_results.main([str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5
    assert all(line.startswith("error: ") for line in errors)


def test_a_machine_without_jsonschema_and_psutil_writes_the_same(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent, found, imported = ("jsonschema", "psutil"), importlib.util.find_spec, builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(name)
        return imported(name, *rest)

    with monkeypatch.context() as bare:
        bare.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else found(name, *rest))
        bare.setattr(builtins, "__import__", refuse)
        save(tmp_path / "kernels.json", "Kernels", "kernels.layers", kernel_rows(rng), CEILING)
        assert gpu_results.main([str(tmp_path)]) == 0
    assert len(read_results(tmp_path / "results.json")["rows"]) == 2
