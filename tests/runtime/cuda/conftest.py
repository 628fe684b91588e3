"""Shared by the tests of `CudaSession`: a fake driver, and a session on it.

The fakes need the package `cuda-bindings`. So the fixtures import them, and the modules that use them are skipped without it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stylert.runtime.cuda import engine_session
from stylert.runtime.cuda.engine_session import CudaSession

if TYPE_CHECKING:
    from tests.runtime.cuda.fake_driver import FakeDriver


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """The driver that every session of the test uses."""
    from tests.runtime.cuda.fake_driver import FakeDriver

    fake = FakeDriver()
    monkeypatch.setattr(engine_session, "load_driver", lambda: fake)
    return fake


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A serialized engine. The fake library does not read it."""
    (tmp_path / "engine").write_bytes(b"plan")
    return tmp_path / "engine"


@pytest.fixture
def session(driver: FakeDriver, plan: Path) -> CudaSession:
    """A session with the fake engine of one profile, 1 to 6 images."""
    from tests.runtime.cuda.fake_tensorrt import FakeEngine, fake_trt

    return CudaSession(fake_trt(FakeEngine(driver)), plan)
