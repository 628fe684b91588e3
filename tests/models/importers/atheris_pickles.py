"""A program for atheris: it searches for bytes that the readers of foreign checkpoints neither read nor refuse.

python tests/models/importers/atheris_pickles.py [options of libFuzzer] [folder of files to begin with]
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["stylert.models"]):
    from stylert.models.importers.errors import FormatError
    from stylert.models.importers.import_checkpoint import import_bytes


def read(data: bytes) -> None:
    """Any other error than FormatError ends the search, as do 10 seconds or 1 GiB."""
    try:
        import_bytes(memoryview(data))
    except FormatError as e:
        assert str(e).isprintable()


if __name__ == "__main__":
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()
