"""Merges the results of the stages of `gpu_suite.sh` into one results file, for one report and one comparison.

    python benchmarks/tools/gpu_results.py OUT/stages

Each stage wrote `OUT/stages/<stage>.json`. The suite itself writes the merged document to `OUT/results.json` after each stage. This
command writes it beside the files of the stages.
"""

from __future__ import annotations

from stylert.core.programs.stop_signals import end_quietly

if __name__ == "__main__":
    end_quietly()  # until `run_program`: the imports below take their time

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.schema import read_results, to_json
from stylert.core.errors import InputError, StylertError, printable
from stylert.core.files.atomic import atomic_file
from stylert.core.programs.runner import run_program

#: Stages whose files hold rows.
STAGES = ("kernels", "generator", "tuned", "eight_bit", "training")
#: The stage that measures the network again, with measured tiles. Its forms need names of their own.
TUNED = "tuned"


def merged(folder: Path) -> dict[str, Any]:
    """One document from those of the stages: all rows, the conditions and peak rates by stage, and the rest of the first.

    Raises:
        InputError: The folder has no stage's file, or one of them cannot be read or has another schema.
    """
    documents = {stage: read_results(path) for stage in STAGES if (path := folder / f"{stage}.json").is_file()}
    if not documents:
        raise InputError(f"{folder} holds no results of gpu_suite.sh: none of {', '.join(f'{s}.json' for s in STAGES)}")
    first = next(iter(documents.values()))
    return first | {
        "title": "; ".join(document["title"] for document in documents.values()),
        "command": ["benchmarks/gpu_suite.sh"],
        "conditions": {
            stage: document["conditions"] | {"ceiling": document["ceiling"]} for stage, document in documents.items()
        },
        "rows": [_named(row, stage) for stage, document in documents.items() for row in document["rows"]],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of this tool. Returns the exit status: 2 if there is nothing to merge."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        print("error: name the folder that gpu_suite.sh wrote", file=sys.stderr)
        return 2
    path = Path(given[0]) / "results.json"
    try:
        document = merged(path.parent)
    except StylertError as error:
        print(printable(f"error: {error}"), file=sys.stderr)
        return 2
    with atomic_file(path) as temporary:
        temporary.write_text(to_json(document), encoding="utf-8")
    print(printable(f"{path}: {len(document['rows'])} rows"))
    return 0


def _named(row: dict[str, Any], stage: str) -> dict[str, Any]:
    """A row, whose form says if the tiles were measured."""
    if stage != TUNED:
        return row
    return row | {"setup": row["setup"] | {"form": f"{row['setup']['form']}, measured tiles"}}


if __name__ == "__main__":
    run_program("gpu_results", main)
