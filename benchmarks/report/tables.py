"""Rows of a results file as table cells, for the terminal, Markdown and the HTML report.

Each scenario has a list of columns. A column is its head and a function from a row to the text of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stylert.benchmarks.schema import row_name
from stylert.core.statistics import Ratio

#: Title of each scenario's table, in the order of a report.
TITLES = {
    "single-stream": "single-stream: one image at a time, latents to image in host memory",
    "offline": "offline: batch after batch",
    "server": "server: single images requested at random times (Poisson)",
    "cold-start": "cold-start: start of a process to its first image",
    "build": "build: network to engine",
    "kernel": "kernels, and the synthesis network on them, without copies to the host",
    "training": "training: steps of a run, with the regularisers as often as in a run",
    "peer": "peers: the same network run in other ways",
}

#: Entries of a row's `phases_ms` on a GPU, with the heads of their columns.
PHASES = {
    "h2d": "inputs to the device ms",
    "compute": "network ms",
    "d2h": "images to the host ms",
    "enqueue": "enqueueing by the host ms",
}
PHASES_TITLE = "phases of a call"

Row = dict[str, Any]
#: The `accuracy` part of a results file.
Accuracy = Sequence[dict[str, Any]]


class Column(NamedTuple):
    """One column of a scenario's table. A head that starts with `<` marks text; the others are numbers."""

    head: str
    cell: Callable[[Row, Accuracy], str]


def columns(scenario: str) -> list[str]:
    """The heads of a scenario's table. A head that starts with `<` marks text; the others are numbers."""
    return [column.head for column in COLUMNS[scenario]]


def cells(row: Row, accuracy: Accuracy = ()) -> list[str]:
    """The cells of a row under `columns(row["scenario"])`.

    Args:
        row: A row of a results file.
        accuracy: The `accuracy` part of the file, for the column of the PSNR.
    """
    return [column.cell(row, accuracy) for column in COLUMNS[row["scenario"]]]


def by_scenario(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each scenario, in the order of `TITLES`. A scenario without rows is missing."""
    groups = {scenario: [row for row in rows if row["scenario"] == scenario] for scenario in TITLES}
    return {scenario: group for scenario, group in groups.items() if group}


def phase_cells(rows: Sequence[Row]) -> list[list[str]]:
    """For each row with phases of a GPU's call: its name, and the cells under the heads of `PHASES`."""
    timed = [row for row in rows if "compute" in row.get("phases_ms", {})]
    return [
        [f"{row_name(row)} ({row['scenario']})", *(number(row["phases_ms"].get(phase)) for phase in PHASES)] for row in timed
    ]


def weak_rows(rows: Sequence[Row]) -> list[str]:
    """A line for each row that has remarks: its name, its scenarios, and the remarks by kind.

    Rows with the same name and the same remarks share a line.
    """
    scenarios_of: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row["remarks"]:
            scenarios_of.setdefault((row_name(row), *row["remarks"]), []).append(row["scenario"])
    lines = []
    for (name, *remarks), scenarios in scenarios_of.items():
        observations: dict[str, list[str]] = {}
        for remark in remarks:
            kind, _, observation = remark.partition(": ")
            observations.setdefault(kind, []).append(observation)
        by_kind = "; ".join(f"{kind}: {', '.join(each)}" for kind, each in observations.items())
        lines.append(f"{name} ({', '.join(scenarios)}): {by_kind}")
    return lines


def ratio_facts(ratio: Ratio, peer: str, ours: str) -> dict[str, Any]:
    """One entry of `times faster` in the conditions of a results file.

    Args:
        ratio: Time of the peer over time of ours.
        peer: Name of the peer.
        ours: Name of our candidate.
    """
    return {
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "cycles": ratio.pairs,
        "peer": peer,
        "ours": ours,
    }


def ratio_from_facts(facts: dict[str, Any]) -> Ratio:
    """The inverse of `ratio_facts`."""
    return Ratio(facts["ratio"], facts["low"], facts["high"], facts["cycles"])


def speedup_lines(document: dict[str, Any]) -> list[str]:
    """A line for each ratio in `times faster`: the ratio with its interval, what was compared, and the number of cycles."""
    return [
        f"{title}: {ratio_from_facts(facts)} times as fast, {facts['ours']} against {facts['peer']}, "
        f"{facts['cycles']} interleaved cycles"
        for title, facts in document["conditions"].get("times faster", {}).items()
    ]


def rate_list(ceiling: dict[str, Any]) -> str:
    """The peak rates of a results file as text, such as `float32 78.1 GFLOP/s, copy 13.1 GB/s`."""
    rates = [f"{dtype} {number(1000 * tflops)} GFLOP/s" for dtype, tflops in ceiling["tflops"].items()]
    return ", ".join([*rates, f"copy {number(ceiling['bandwidth'])} GB/s"])


def number(value: float | None, digits: int = 3) -> str:
    """A number with three significant digits and no exponent, or a dash for None."""
    if value is None:
        return "–"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text else text


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown. Columns whose head starts with `<` are aligned left, the others right."""
    alignment = ["---" if head.startswith("<") else "---:" for head in heads]
    lines = [[head.lstrip("<") for head in heads], alignment]
    lines += [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


# --- cells ----------------------------------------------------------------------------------------------------------------


def _of_work(head: str, key: str, other_key: str = "") -> Column:
    """An entry of the row's work, or another entry if the first is missing."""
    return Column(head, lambda row, _: str(row["work"].get(key, row["work"].get(other_key, ""))))


def _of_setup(head: str, key: str) -> Column:
    return Column(head, lambda row, _: str(row["setup"].get(key, "")))


def _value(head: str, digits: int = 3) -> Column:
    return Column(head, lambda row, _: number(row["value"], digits))


def _of_phases(head: str, key: str) -> Column:
    return Column(head, lambda row, _: number(row["phases_ms"].get(key)))


def _of_details(head: str, key: str) -> Column:
    return Column(head, lambda row, _: number(row["details"].get(key)))


def _percentile(head: str, q: str) -> Column:
    def cell(row: Row, _: Accuracy) -> str:
        percentile = _percentiles(row).get(q)
        return "–" if percentile is None else number(percentile["value"])

    return Column(head, cell)


def _percentile_with_interval(head: str, q: str) -> Column:
    """Such as `41.2 [40.9, 41.8]`. A bound that too few runs cannot give is a question mark."""

    def cell(row: Row, _: Accuracy) -> str:
        percentile = _percentiles(row).get(q)
        if percentile is None:
            return "–"
        low, high = ("?" if bound is None else number(bound) for bound in (percentile["low"], percentile["high"]))
        return f"{number(percentile['value'])} [{low}, {high}]"

    return Column(head, cell)


def _percentiles(row: Row) -> dict[str, Any]:
    return {} if row["distribution"] is None else row["distribution"]["percentiles"]


def _roofline_share(row: Row, _: Accuracy) -> str:
    """Lower bound over measured time, or measured rate over its upper bound."""
    bound = row.get("floor")
    if not bound or not row["value"]:
        return "–"
    share = bound / row["value"] if row["better"] == "lower" else row["value"] / bound
    return f"{share:.0%}"


def _psnr(row: Row, accuracy: Accuracy) -> str:
    """The row's own PSNR, or the mean PSNR of the same model, backend and precision."""
    if (psnr_db := row["details"].get("psnr_db")) is not None:
        return f"{psnr_db:.1f}"
    key = (row["work"].get("model"), row["setup"]["backend"], row["work"].get("precision"))
    for entry in accuracy:
        if (entry["model"], entry["backend"], entry["precision"]) == key:
            return f"{entry['psnr_db']:.1f}"
    return "–"


def _remark_kinds(row: Row, _: Accuracy) -> str:
    kinds = dict.fromkeys(remark.partition(":")[0] for remark in row["remarks"])
    return ", ".join(kinds) or "–"


def _number_of_runs(row: Row, _: Accuracy) -> str:
    return str(sum(map(len, row["rounds"])))


def _whole_work(row: Row, _: Accuracy) -> str:
    return " ".join(str(value) for key, value in row["work"].items() if key not in ("weights", "resolution"))


def _whole_setup(row: Row, _: Accuracy) -> str:
    return " ".join(str(value) for value in row["setup"].values() if value is not None)


MODEL = (
    _of_work("<model", "model"),
    _of_setup("<backend", "backend"),
    _of_work("<precision", "precision"),
    _of_setup("<form", "form"),
)
IMAGES_PER_S = Column("images/s", lambda row, _: number(row["images_per_s"]))
ENGINE_MIB = Column("engine MiB", lambda row, _: number(row["details"]["engine_bytes"] / 2**20))
P99_TARGET = Column("p99 target ms", lambda row, _: number(row["work"]["p99_ms"]))
UNIT = Column("<unit", lambda row, _: row["unit"])
ROOFLINE = Column("of roofline", _roofline_share)
MEMORY = Column("MiB", lambda row, _: number(row.get("peak_memory_mib"), 4))
PSNR = Column("PSNR dB", _psnr)
REMARKS = Column("<remarks", _remark_kinds)
RUNS = Column("runs", _number_of_runs)

#: The columns of each scenario.
COLUMNS: dict[str, tuple[Column, ...]] = {
    "single-stream": (
        *MODEL,
        _percentile_with_interval("p50 ms [95 %]", "50"),
        _percentile("p90", "90"),
        _percentile("p95", "95"),
        _percentile_with_interval("p99 [95 %]", "99"),
        _percentile("p99.9", "99.9"),
        IMAGES_PER_S,
        ROOFLINE,
        MEMORY,
        PSNR,
        REMARKS,
    ),
    "offline": (
        *MODEL,
        _of_work("batch", "batch"),
        _value("images/s"),
        _percentile("p50 ms", "50"),
        _percentile("p99 ms", "99"),
        ROOFLINE,
        MEMORY,
        PSNR,
        REMARKS,
    ),
    "server": (
        *MODEL,
        P99_TARGET,
        _value("images/s held"),
        _percentile("p50 ms", "50"),
        _percentile_with_interval("p99 ms [95 %]", "99"),
        ROOFLINE,
        PSNR,
        REMARKS,
    ),
    "cold-start": (
        *MODEL,
        _value("ms", 4),
        _of_phases("import", "import"),
        _of_phases("load", "load"),
        _of_phases("first image", "first_image"),
        _of_phases("next image", "next_image"),
        MEMORY,
        REMARKS,
    ),
    "build": (*MODEL, _value("s"), ENGINE_MIB, MEMORY, REMARKS),
    "kernel": (
        _of_work("<kernel", "kernel"),
        _of_work("<of", "layer", "model"),
        _of_work("<shape", "shape"),
        _of_work("<dtype", "dtype", "precision"),
        _of_work("batch", "batch"),
        _of_setup("<form", "form"),
        _value("median"),
        UNIT,
        RUNS,
        _of_details("TFLOP/s", "tflops"),
        _of_details("GB/s", "gbps"),
        ROOFLINE,
        PSNR,
        REMARKS,
    ),
    "training": (
        _of_work("<preset", "preset"),
        _of_work("px", "resolution"),
        _of_work("batch", "batch"),
        _of_setup("<form", "form"),
        _of_setup("<device", "device"),
        _value("s/kimg"),
        _of_details("main step s", "main_s"),
        _of_details("path length s", "path_length_s"),
        _of_details("R1 s", "r1_s"),
        MEMORY,
        REMARKS,
    ),
    "peer": (
        Column("<work", _whole_work),
        Column("<setup", _whole_setup),
        _value("value"),
        UNIT,
        RUNS,
        ROOFLINE,
        PSNR,
        REMARKS,
    ),
}
