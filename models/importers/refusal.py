"""How the readers say no: one line that names what was refused, however strange the name."""

from __future__ import annotations

from stylert.core.errors import CheckpointError


class Refused(CheckpointError):
    """The file is damaged, hostile, or of another kind. Raised without its path, which `import_checkpoint` puts in front."""


class Unrepresentable(Refused):
    """The network is whole, but has an option that stylert's networks have not."""


def shown(value: object) -> str:
    """A string or number from a file as it may stand in a message: printable, on one line, at most 80 characters.

    Anything else is shown by its type alone: the representation of a foreign container may be without end.
    """
    if isinstance(value, int) and not -(10**18) < value < 10**18:
        return "a huge number"
    if value is not None and not isinstance(value, str | int | float | bool):
        return f"a value of type {type(value).__name__}"
    text = "".join(c if c.isascii() and c.isprintable() else "?" for c in str(value)[:81])
    return text if len(text) <= 80 else text[:77] + "..."
