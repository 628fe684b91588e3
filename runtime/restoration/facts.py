"""The facts that a restored picture states about itself, as the comment of its file.

    {"AI-edited": true, "stylert": "0.1.0", "command": "restore", "bundle": "9f2c…", "backend": "onnxruntime", "precision": "fp32",
     "photo": "51ab…", "boxes": ["120,80,256"]}

`bundle` is the sha256 of `restorer.json` and `photo` that of the file with the photograph. So the picture can be made again from both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version

from stylert.core.provenance.signing import EDITED
from stylert.runtime.restoration.photographs import Box
from stylert.runtime.restoration.restorer import Restorer

#: Name of the command.
COMMAND = "restore"


def restoration_facts(restorer: Restorer, photo_sha256: str, boxes: Sequence[Box]) -> str:
    """The comment of a restored picture: one line of ASCII."""
    facts = {
        EDITED: True,
        "stylert": version("stylert"),
        "command": COMMAND,
        "bundle": restorer.bundle.sha256,
        "backend": restorer.backend,
        "precision": restorer.precision,
        "photo": photo_sha256,
    }
    return json.dumps(facts | ({"boxes": list(map(str, boxes))} if boxes else {}))
