"""The results of `watermark_robustness` in Markdown, and the goals of a mark beside what was reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from stylert.benchmarks.tools.watermark_edits import CLEAN, CROP, JPEG, RESIZE

#: First line of a file of this tool.
MARKDOWN_MARK = "<!-- Written by benchmarks/tools/watermark_robustness.py -->"
#: Goals of 32 bits: least shares of bits in percent by edit, the least mean PSNR in dB, and the greatest growth of FD in percent.
READ_GOALS = {CLEAN: 99.0, JPEG: 95.0, RESIZE: 95.0, CROP: 95.0}
INT8_GOAL, PSNR_GOAL, DISTANCE_GOAL = 99.0, 35.0, 5.0

Document = Mapping[str, Any]


def page(document: Document) -> str:
    """All tables of a document, with the command, the machine and the seeds."""
    parts = [MARKDOWN_MARK, facts(document), goal_table(document), mark_table(document), edit_table(document)]
    parts += [runtime_table(document), attacker_table(document), chance_table(document)]
    return "\n\n".join([*parts, *([distance_table(document)] if document["distances"] else []), seed_table(document)]) + "\n"


def facts(document: Document) -> str:
    """The command, the processor and the versions."""
    machine = document["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"`{document['command']}`\n\n{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; {versions}. "
        f"Begun {document['created']}."
    )


def goal_table(document: Document) -> str:
    """Each goal, the worst of the marks, and whether it is reached."""
    rows = [
        (name, f"{sign} {goal:g} {unit}".strip(), f"{value:.2f}" if unit else f"{value:g}", "yes" if is_reached else "**no**")
        for name, sign, goal, unit, value, is_reached in goals(document)
    ]
    return table(["<goal", "bound", "reached", "met"], rows)


def goals(document: Document) -> list[tuple[str, str, float, str, float, bool]]:
    """Each goal: its name, the sign and value of its bound, the unit, the value of the worst mark, and whether that keeps it."""
    found: list[tuple[str, str, float, str, float, bool]] = []

    def at_least(name: str, goal: float, unit: str, values: Iterable[float]) -> None:
        worst = min(values)
        found.append((name, "≥", goal, unit, worst, worst >= goal))

    def at_most(name: str, goal: float, unit: str, values: Iterable[float]) -> None:
        worst = max(values)
        found.append((name, "≤", goal, unit, worst, worst <= goal))

    by_edit = {row["edit"]: row["marks"] for row in document["edits"]}
    for edit, goal in READ_GOALS.items():
        at_least(f"bits read: {edit}", goal, "%", (cell["read"] for cell in by_edit[edit]))
    int8 = [row for row in document["runtimes"] if row["precision"] == "int8" and row["edit"] == CLEAN]
    at_least("bits read: INT8, worst runtime", INT8_GOAL, "%", (cell["read"] for row in int8 for cell in row["marks"]))
    at_least("PSNR to unmarked images, mean", PSNR_GOAL, "dB", (row["mean at psi 1"] for row in document["marks"]))
    unmarked = sum(row["number"] for row in document["chance"])
    at_most(
        f"of {unmarked:,} unmarked pictures found at 1e-6", 0, "", [sum(row["found at 1e-06"] for row in document["chance"])]
    )
    if document["distances"]:
        at_most("growth of FD-EffNetLite0", DISTANCE_GOAL, "%", growths(document).values())
    return found


def growths(document: Document) -> dict[str, float]:
    """By how many percent the FD of each marked network exceeds that of the unmarked one."""
    plain, *marked = document["distances"].values()
    names = list(document["distances"])[1:]
    return {name: 100 * (value / plain - 1) for name, value in zip(names, marked, strict=True)}


def mark_table(document: Document) -> str:
    """The likeness of images, by mark."""
    keys = ("mean at psi 1", "worst at psi 1", "mean at psi 0.7", "worst at psi 0.7")
    rows = [(row["mark"], *(f"{row[k]:.2f}" for k in keys), row["matches needed"] or "none") for row in document["marks"]]
    return table(["<mark", *(f"PSNR, {key}" for key in keys), "matches needed at 1e-6"], rows)


def edit_table(document: Document) -> str:
    """Bits and images by edit."""
    head = [f"<edit of {document['settings']['images']} images", *(row["mark"] for row in document["marks"])]
    return "Bits read, %, and in brackets the images found at 1e-6, %:\n\n" + table(
        head, [(row["edit"], *map(cell_text, row["marks"])) for row in document["edits"]]
    )


def runtime_table(document: Document) -> str:
    """Bits and images by runtime."""
    names = [row["mark"] for row in document["marks"]]
    rows: dict[str, list[str]] = {}
    for row in document["runtimes"]:
        rows.setdefault(f"{row['runtime']}, {row['precision'].upper()}", []).extend(map(cell_text, row["marks"]))
    head = ["<runtime", *(f"{name}, {edit}" for edit in ("clean", JPEG) for name in names)]
    return table(head, [(name, *cells) for name, cells in rows.items()])


def attacker_table(document: Document) -> str:
    """Removal and forgery by averages, of the last mark."""
    rows = []
    for row in document["attacker"]:
        name = f"{row['images']} marked{', as many unmarked' if row['as many unmarked'] else ''}"
        cells = (text for key in ("removed", "forged") for text in (cell_text(row[key]), f"{row[key]['psnr']:.1f}"))
        rows.append((name, *cells))
    head = [
        "<attacker's images",
        "removed: bits read",
        "PSNR to the marked image",
        "forged: bits read",
        "PSNR to the other image",
    ]
    return table(head, rows)


def chance_table(document: Document) -> str:
    """Matches of images without the last mark."""
    bits = document["settings"]["bits"][-1]
    keys = ("number", "mean", "variance", "most", "found at 0.01", "found at 1e-06")
    rows = []
    for row in document["chance"]:
        values = (f"{row[key]:.2f}" if isinstance(row[key], float) else row[key] for key in keys)
        rows.append((row["images"] if row["edit"] == CLEAN else f"{row['images']}, {row['edit']}", *values))
    head = ["<images without the mark", "number", f"matches of {bits}, mean", "variance", "most", "found at 0.01", "at 1e-6"]
    return table(head, rows) + f"\n\nFair coins have the mean {bits / 2:g} and the variance {bits / 4:g}."


def distance_table(document: Document) -> str:
    """FD by network."""
    growth = growths(document)
    cells = [(name, f"{v:.2f}", f"{growth[name]:.1f} %" if name in growth else "") for name, v in document["distances"].items()]
    count = document["settings"]["distance images"]
    return table([f"<network, {count:,} images a side", "FD-EffNetLite0", "worse by"], cells)


def seed_table(document: Document) -> str:
    """The seeds of the tables, and those that were used before."""
    seeds = document["seeds"]
    rows = [
        (kind, name, f"{first:,}", f"{last:,}")
        for kind in ("tables", "used before")
        for name, (first, last) in seeds[kind].items()
    ]
    return "No seed of the tables was used before:\n\n" + table(["<use", "<purpose", "first seed", "last"], rows)


def cell_text(cell: Mapping[str, float]) -> str:
    """A cell of bits and images."""
    return f"{cell['read']:.2f} ({cell['found']:.0f})"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown. A column whose title begins with `<` is aligned left."""
    lines = [[title.removeprefix("<") for title in head], *rows]
    texts = [f"| {' | '.join(map(str, line))} |" for line in lines]
    rule = f"|{'|'.join('---' if title.startswith('<') else '---:' for title in head)}|"
    return "\n".join([texts[0], rule, *texts[1:]])
