"""Rows as text, for the terminal, Markdown and the report alike: what each column says is decided here once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stylert.benchmarks.schema import row_name
from stylert.core.statistics import Ratio

#: Scenarios that are tables of their own, with the unit of their value.
TITLES = {
    "single-stream": "single-stream: one image at a time, latents to image in host memory",
    "offline": "offline: batch after batch",
    "server": "server: single images at random moments (Poisson)",
    "cold-start": "cold-start: start of a process to its first image",
    "build": "build: network to engine",
    "kernel": "kernels, and the synthesis network on them, without copies to the host",
    "training": "training: steps of a run, with the regularisers as often as a run has them",
    "peer": "peers: the same network in other ways",
}


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, without an exponent; a dash for what is not known."""
    if value is None:
        return "–"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e" in text else text


def interval(percentile: dict[str, Any] | None) -> str:
    """`41.2 [40.9, 41.8]`, open where too few runs bound it."""
    if percentile is None:
        return "–"
    low, high = (number(percentile[k]) if percentile[k] is not None else "?" for k in ("low", "high"))
    return f"{number(percentile['value'])} [{low}, {high}]"


def share(row: dict[str, Any]) -> str:
    """How much of what the machine could do: floor over time, or rate over the highest rate."""
    if row.get("floor") is None or not row["value"]:
        return "–"
    part = row["floor"] / row["value"] if row["better"] == "lower" else row["value"] / row["floor"]
    return f"{part:.0%}"


def doubts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What speaks against each row that is weak evidence, a line each; rows of one measurement stand together."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        if row["remarks"]:
            found.setdefault((row_name(row), *row["remarks"]), []).append(row["scenario"])
    lines = []
    for (name, *remarks), scenarios in found.items():
        kinds: dict[str, list[str]] = {}
        for remark in remarks:
            kind, _, seen = remark.partition(": ")
            kinds.setdefault(kind, []).append(seen)
        seen_by_kind = [f"{kind}: {', '.join(seen)}" for kind, seen in kinds.items()]
        lines.append(f"{name} ({', '.join(scenarios)}): {'; '.join(seen_by_kind)}")
    return lines


def ratio_facts(ratio: Ratio, peer: str, ours: str) -> dict[str, Any]:
    """How many times as fast ours is, as a document's conditions keep it."""
    return {
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "cycles": ratio.pairs,
        "peer": peer,
        "ours": ours,
    }


def times_faster(document: dict[str, Any]) -> list[str]:
    """Which ratios a document has, a line each: with the interval and what was compared."""
    return [
        f"{what}: {Ratio(found['ratio'], found['low'], found['high'], found['cycles'])} times as fast, "
        f"{found['ours']} against {found['peer']}, {found['cycles']} cycles of turns"
        for what, found in document["conditions"].get("times faster", {}).items()
    ]


def psnr_of(row: dict[str, Any], accuracy: Sequence[dict[str, Any]]) -> str:
    """Accuracy beside speed: mean PSNR of the same model, backend and precision."""
    if "psnr_db" in row.get("details", {}):
        return f"{row['details']['psnr_db']:.1f}"
    work, setup = row["work"], row["setup"]
    for a in accuracy:
        if (a["model"], a["backend"], a["precision"]) == (work.get("model"), setup["backend"], work.get("precision")):
            return f"{a['psnr_db']:.1f}"
    return "–"


def columns(scenario: str) -> list[str]:
    """Heads of a scenario's table; a leading `<` is text."""
    head = ["<model", "<backend", "<precision", "<form"]
    if scenario == "single-stream":
        return [
            *head,
            "p50 ms [95 %]",
            "p90",
            "p95",
            "p99 [95 %]",
            "p99.9",
            "images/s",
            "of floor",
            "MiB",
            "PSNR dB",
            "<remarks",
        ]
    if scenario == "offline":
        return [*head, "batch", "images/s", "p50 ms", "p99 ms", "of floor", "MiB", "PSNR dB", "<remarks"]
    if scenario == "server":
        return [*head, "p99 target ms", "images/s held", "p50 ms", "p99 ms [95 %]", "of floor", "PSNR dB", "<remarks"]
    if scenario == "cold-start":
        return [*head, "ms", "import", "load", "first image", "next image", "MiB", "<remarks"]
    if scenario == "build":
        return [*head, "s", "engine MiB", "MiB", "<remarks"]
    if scenario == "training":
        return [
            "<preset",
            "px",
            "batch",
            "<form",
            "<device",
            "s/kimg",
            "main step s",
            "path length s",
            "R1 s",
            "MiB",
            "<remarks",
        ]
    if scenario == "kernel":
        what = ["<kernel", "<of", "<shape", "<dtype", "batch", "<form"]
        return [*what, "median", "<unit", "runs", "TFLOP/s", "GB/s", "of floor", "PSNR dB", "<remarks"]
    return ["<what", "<with", "value", "<unit", "runs", "of floor", "PSNR dB", "<remarks"]


def cells(row: dict[str, Any], accuracy: Sequence[dict[str, Any]] = ()) -> list[str]:
    """A row under `columns(row["scenario"])`."""
    work, setup, scenario = row["work"], row["setup"], row["scenario"]
    head = [str(work.get("model", "")), setup["backend"], str(work.get("precision", "")), str(setup.get("form", ""))]
    p = (row["distribution"] or {}).get("percentiles", {})

    def value(q: str) -> str:
        return number(p[q]["value"]) if q in p else "–"

    memory, note = (
        number(row.get("peak_memory_mib"), 4),
        "; ".join(r.split(":")[0] for r in dict.fromkeys(row["remarks"])) or "–",
    )
    note = ", ".join(dict.fromkeys(note.split("; ")))
    psnr = psnr_of(row, accuracy)
    if scenario == "single-stream":
        tail = [interval(p.get("50")), value("90"), value("95"), interval(p.get("99")), value("99.9")]
        return [*head, *tail, number(row["images_per_s"]), share(row), memory, psnr, note]
    if scenario == "offline":
        return [*head, str(work["batch"]), number(row["value"]), value("50"), value("99"), share(row), memory, psnr, note]
    if scenario == "server":
        return [*head, number(work["p99_ms"]), number(row["value"]), value("50"), interval(p.get("99")), share(row), psnr, note]
    if scenario == "cold-start":
        stages = [number(row["phases_ms"].get(n)) for n in ("import", "load", "first_image", "next_image")]
        return [*head, number(row["value"], 4), *stages, memory, note]
    if scenario == "build":
        return [*head, number(row["value"]), number(row["details"]["engine_bytes"] / 2**20), memory, note]
    if scenario == "training":
        what = [
            str(work["preset"]),
            str(work["resolution"]),
            str(work["batch"]),
            setup.get("form", ""),
            setup.get("device", ""),
        ]
        steps = [number(row["details"].get(k)) for k in ("main_s", "path_length_s", "r1_s")]
        return [*what, number(row["value"]), *steps, memory, note]
    runs = str(sum(map(len, row["rounds"])))
    if scenario == "kernel":
        place, dtype = work.get("layer", work.get("model", "")), work.get("dtype", work.get("precision", ""))
        what = [str(v) for v in (work["kernel"], place, work.get("shape", ""), dtype, work["batch"], setup["form"])]
        rates = [number(row["details"].get(k)) for k in ("tflops", "gbps")]
        return [*what, number(row["value"]), row["unit"], runs, *rates, share(row), psnr, note]
    named = " ".join(str(v) for k, v in work.items() if k not in ("weights", "resolution"))
    using = " ".join(str(v) for v in setup.values() if v is not None)
    return [named, using, number(row["value"]), row["unit"], runs, share(row), psnr, note]


#: Parts of a GPU's call, with their heads.
PARTS = {"h2d": "inputs to the device ms", "compute": "network ms", "d2h": "images to the host ms", "enqueue": "host's part ms"}
PARTS_TITLE = "where a call's time goes"


def parts(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The rows of single images and batches whose calls could be taken apart, under the heads of `PARTS`."""
    found = [r for r in rows if "compute" in r.get("phases_ms", {})]
    return [[f"{row_name(r)} ({r['scenario']})", *(number(r["phases_ms"].get(k)) for k in PARTS)] for r in found]


def by_scenario(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows under their scenario, in the order of `TITLES`, without empty ones."""
    return {s: found for s in TITLES if (found := [r for r in rows if r["scenario"] == s])}


def markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, numbers to the right."""
    rule = ["---" if h.startswith("<") else "---:" for h in heads]
    text = [[h.lstrip("<") for h in heads], rule, *([c.replace("|", "\\|") for c in line] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in text) + "\n"
