"""Requests that fit or break the description of the API never end in an error of the server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

from stylert.runtime.bundle import Bundle
from stylert.runtime.serving.server import ImageServer
from tests.runtime.serving.conftest import running, source

schemathesis = pytest.importorskip("schemathesis", reason="needs the package schemathesis")
pytestmark = pytest.mark.slow

EXAMPLES = 25


@pytest.fixture(scope="module")
def api(bundle: Bundle) -> Iterator[ImageServer]:
    with running([source(bundle, "fp32")], max_images=4, max_pixels=2**16) as server:
        yield server


@pytest.mark.parametrize(("mode", "status"), [("POSITIVE", "2xx"), ("NEGATIVE", "4xx")])
def test_no_request_ends_in_an_error_of_the_server(api: ImageServer, mode: str, status: str) -> None:
    schema = schemathesis.openapi.from_url(f"{api.url}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert len(operations) > 10
    answered: set[str] = set()
    for operation in operations:
        with suppress(Unsatisfiable):  # no request can break a description without parameters
            answered |= _ask(operation, schemathesis.GenerationMode[mode])
    assert status in answered


def _ask(operation: Any, mode: Any) -> set[str]:
    """Send requests for one operation. Returns the classes of status that came back."""
    answered: set[str] = set()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        answer = case.call(timeout=30)
        assert answer.status_code < 500 or answer.status_code == 503, (case.method, case.path, answer.status_code, answer.text)
        if answer.status_code >= 400:
            assert answer.json()["error"]
        answered.add(f"{answer.status_code // 100}xx")

    ask()
    return answered
