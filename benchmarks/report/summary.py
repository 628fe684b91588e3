"""What a network takes on a machine in every way that was measured there: the tables that README.md and the page of figures
begin with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stylert.benchmarks.report.tables import markdown, number
from stylert.core.statistics import Ratio

NAMES = {"eager": "PyTorch eager", "torch.compile": "torch.compile", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def summaries(documents: Sequence[dict[str, Any]]) -> dict[str, str]:
    """By machine, two tables in Markdown: the peers and stylert, of each the better form, and how many times as fast the best are.

    The machine that measured last is the first; of a network that a machine has measured more than once, the newest.
    """
    by_machine: dict[str, dict[str, dict[str, Any]]] = {}
    for document in sorted(documents, key=lambda d: d["created"], reverse=True):
        machine = f"{document['machine']['cpu']}, {document['machine']['cores']} cores"
        for model in {row["work"]["model"]: None for row in document["rows"] if row["scenario"] == "peer"}:
            by_machine.setdefault(machine, {}).setdefault(model, document)
    return {machine: _tables(dict(sorted(found.items(), key=_resolution))) for machine, found in by_machine.items()}


def _resolution(of_model: tuple[str, dict[str, Any]]) -> int:
    model, document = of_model
    return document["models"][model]["resolution"]


def _tables(documents: dict[str, dict[str, Any]]) -> str:
    """`documents` by the model that each is read for."""
    ways: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    ratios: dict[str, dict[str, str]] = {}
    for model, document in documents.items():
        for row in document["rows"]:
            if row["scenario"] == "peer" and row["work"]["model"] == model:
                form = "stylert" if row["details"]["kind"] == "ours" else "plain"
                best = ways.setdefault((form, row["setup"]["backend"], row["work"]["precision"]), {})
                best[model] = min(best.get(model, row), row, key=lambda r: r["value"])
        for name, found in document["conditions"].get("times faster", {}).items():
            if name.startswith(f"{model}, "):
                ratio = Ratio(found["ratio"], found["low"], found["high"], found["cycles"])
                ratios.setdefault(name.removeprefix(f"{model}, "), {})[model] = str(ratio)
    heads = ["<form", "<on", "<precision", *(h for m in documents for h in (f"{m}, ms", "PSNR dB"))]
    lines = [
        [form, NAMES.get(engine, engine), precision, *(c for m in documents for c in _cells(of_model.get(m)))]
        for (form, engine, precision), of_model in ways.items()
    ]
    times = [[what, *(of_model.get(m, "–") for m in documents)] for what, of_model in ratios.items()]
    return markdown(heads, lines) + "\n" + markdown(["<times as fast [95 %]", *documents], times)


def _cells(row: dict[str, Any] | None) -> tuple[str, str]:
    return ("–", "–") if row is None else (number(row["value"]), f"{row['details']['psnr_db']:.1f}")
