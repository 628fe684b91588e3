"""The ways in which a folder is replaced."""

from __future__ import annotations

import pytest

from stylert.core.files import atomic


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to replace a folder: that of Linux, and that of file systems which cannot exchange two names."""
    if request.param == "two renames":
        monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    return str(request.param)
