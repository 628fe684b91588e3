"""A page without the files of ONNX Runtime Web, for tests that need no browser."""

from __future__ import annotations

import pytest

from stylert.runtime.web import site
from stylert.runtime.web.browser_runtime import RUNTIME_FILES


@pytest.fixture
def no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages get the name of each file of ONNX Runtime Web in place of its content."""

    def files(providers: tuple[str, ...], source: object = None) -> dict[str, bytes]:
        return {file.name: file.name.encode() for provider in providers for file in RUNTIME_FILES[provider]}

    monkeypatch.setattr(site, "runtime_files", files)
