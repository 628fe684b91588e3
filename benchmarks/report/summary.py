"""The tables at the head of README.md and docs/performance.md: stylert and its peers on each machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stylert.benchmarks.report.tables import markdown, number, ratio_from_facts

ENGINE_NAMES = {
    "eager": "PyTorch eager",
    "torch.compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}

#: The documents of one machine, by the model that each is used for.
DocumentByModel = Mapping[str, dict[str, Any]]


def summaries(documents: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Two Markdown tables for each machine: times and accuracy of the peers and stylert, and the ratios of the best.

    The machine of the newest document comes first. If a machine measured a model several times, the newest document counts.
    Of the two textbook forms the faster one is shown.

    Args:
        documents: Contents of results files. Those without peers are ignored.

    Returns:
        Machine to the text of both tables.
    """
    by_machine: dict[str, dict[str, dict[str, Any]]] = {}
    for document in sorted(documents, key=lambda d: d["created"], reverse=True):
        machine = f"{document['machine']['cpu']}, {document['machine']['cores']} cores"
        for row in document["rows"]:
            if row["scenario"] == "peer":
                by_machine.setdefault(machine, {}).setdefault(row["work"]["model"], document)
    return {machine: _tables(_by_resolution(of_model)) for machine, of_model in by_machine.items()}


def _by_resolution(documents: DocumentByModel) -> DocumentByModel:
    return dict(sorted(documents.items(), key=lambda item: item[1]["models"][item[0]]["resolution"]))


def _tables(documents: DocumentByModel) -> str:
    return f"{_times_table(documents)}\n{_ratios_table(documents)}"


def _times_table(documents: DocumentByModel) -> str:
    """One line per form, engine and precision, with two columns per model."""
    fastest: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for model, document in documents.items():
        for row in document["rows"]:
            if row["scenario"] != "peer" or row["work"]["model"] != model:
                continue
            form = "stylert" if row["details"]["kind"] == "ours" else "textbook"
            row_by_model = fastest.setdefault((form, row["setup"]["backend"], row["work"]["precision"]), {})
            row_by_model[model] = min(row_by_model.get(model, row), row, key=lambda r: r["value"])
    heads = ["<form", "<on", "<precision"]
    for model in documents:
        heads += [f"{model}, ms", "PSNR dB"]
    lines = []
    for (form, engine, precision), row_by_model in fastest.items():
        line = [form, ENGINE_NAMES.get(engine, engine), precision]
        for model in documents:
            line += _time_cells(row_by_model.get(model))
        lines.append(line)
    return markdown(heads, lines)


def _time_cells(row: dict[str, Any] | None) -> tuple[str, str]:
    if row is None:
        return "–", "–"
    return number(row["value"]), f"{row['details']['psnr_db']:.1f}"


def _ratios_table(documents: DocumentByModel) -> str:
    """One line per ratio, with one column per model."""
    ratios: dict[str, dict[str, str]] = {}
    for model, document in documents.items():
        for title, facts in document["conditions"].get("times faster", {}).items():
            of_model, _, pair = title.partition(", ")
            if of_model == model:
                ratios.setdefault(pair, {})[model] = str(ratio_from_facts(facts))
    lines = [[pair, *(ratio_by_model.get(model, "–") for model in documents)] for pair, ratio_by_model in ratios.items()]
    return markdown(["<times as fast [95 %]", *documents], lines)
