"""Python interpreters that this package starts import nothing from the working folder.

Python puts the working folder first on the path of modules for `-c` and `-m`. A file `pickle.py` that lies beside somebody's
pictures would then run. So every interpreter starts with `-P`, or with the environment that means the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "PYTHONSAFEPATH"


def python_command(*arguments: object) -> list[str]:
    """The command line of an interpreter with these arguments, such as `-m` and a module."""
    return [sys.executable, "-P", *map(str, arguments)]


@contextmanager
def safe_path() -> Iterator[None]:
    """Interpreters that a library starts within the block, as multiprocessing does, leave the working folder out, too."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
