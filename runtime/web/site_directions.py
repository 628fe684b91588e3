"""The directions of a network as files of a page: a list for its sliders, and the vectors for the worker that makes the pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stylert.runtime.bundle import Bundle
from stylert.runtime.serving.served_directions import direction_facts, directions_of

LIST, VECTORS = "directions.json", "directions.f32"


def write_site_directions(bundle: Bundle, files: Sequence[Path], place: Path) -> int:
    """Write the directions of a bundle's network beside its networks, as `LIST` and `VECTORS`.

    Args:
        bundle: The bundle.
        files: Files of directions.
        place: Folder of the networks.

    Returns:
        The number of directions. Without any, there are no files.

    Raises:
        InputError: A file is damaged, two belong to this network, or one moves styles alone.
    """
    directions = directions_of(bundle, files)
    if directions is None:
        return 0
    facts = direction_facts(directions, bundle)
    document = {"sha256": directions.sha256, "directions": facts}
    (place / LIST).write_text(json.dumps(document) + "\n", encoding="utf-8")
    vectors = np.stack([directions[fact["name"]].vector for fact in facts])  # [N, w_dim]
    (place / VECTORS).write_bytes(vectors.astype("<f4").tobytes())
    return len(facts)
