"""An object that would run code when a pickle of it is loaded."""

from typing import Any

import pytest


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this ran",)


@pytest.fixture
def runs_code() -> RunsCode:
    return RunsCode()
