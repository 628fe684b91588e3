"""What `gpu_suite.sh` measured in its stages as one benchmark: `python benchmarks/tools/gpu_results.py OUT`.

Each stage's JSON is a document of `schema.py` already; `OUT/results.json` has the rows of all, for one report and one comparison.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stylert.benchmarks.schema import KIND, SCHEMA, read_results, to_json
from stylert.core.atomic import atomic_file
from stylert.core.errors import InputError, StylertError

STAGES = ("kernels", "generator", "training")


def merged(folder: Path) -> dict[str, Any]:
    """The stages' documents as one: rows in their order, conditions and ceilings by stage, the rest from the first.

    Raises:
        InputError: `folder` has none of them, or one that is no benchmark of this schema.
    """
    parts = {stage: _read(path) for stage in STAGES if (path := folder / f"{stage}.json").is_file()}
    if not parts:
        raise InputError(f"{folder} holds no results of gpu_suite.sh: none of {', '.join(f'{s}.json' for s in STAGES)}")
    first = next(iter(parts.values()))
    return first | {
        "title": "; ".join(part["title"] for part in parts.values()),
        "command": ["benchmarks/gpu_suite.sh"],
        "conditions": {stage: part["conditions"] | {"ceiling": part["ceiling"]} for stage, part in parts.items()},
        "rows": [row for part in parts.values() for row in part["rows"]],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit status 2 where there is nothing to read."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        print("error: name the folder that gpu_suite.sh wrote", file=sys.stderr)
        return 2
    path = Path(given[0]) / "results.json"
    try:
        document = merged(path.parent)
    except StylertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with atomic_file(path) as temporary:
        temporary.write_text(to_json(document))
    print(f"{path}: {len(document['rows'])} rows")
    return 0


def _read(path: Path) -> dict[str, Any]:
    if importlib.util.find_spec("jsonschema") is not None:
        return read_results(path)
    try:  # a GPU machine may have no jsonschema; whoever reads the whole has
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict) or (found.get("kind"), found.get("schema")) != (KIND, SCHEMA):
        raise InputError(f"{path} is not what gpu_suite.sh writes")
    return found


if __name__ == "__main__":
    sys.exit(main())
