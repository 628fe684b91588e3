"""Messages of protobuf in their text format, as Triton reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class Name(str):
    """A name of an enumeration in a message, which has no quotes."""


def message_text(fields: Mapping[str, Any], indent: str = "") -> str:
    """A protobuf message in its text format. A sequence is a repeated field, and a mapping a message."""
    lines: list[str] = []
    for name, value in fields.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, Mapping):
                lines.append(f"{indent}{name} {{\n{message_text(each, indent + '  ')}{indent}}}\n")
            elif isinstance(each, bool):
                lines.append(f"{indent}{name}: {str(each).lower()}\n")
            elif isinstance(each, str) and not isinstance(each, Name):
                lines.append(f"{indent}{name}: {json.dumps(each)}\n")
            else:
                lines.append(f"{indent}{name}: {each}\n")
    return "".join(lines)
