"""Lines of the log and refusals are JSON, whatever the files are called."""

from __future__ import annotations

import json
import logging
import os

from stylert.runtime.serving.refusals import error_body
from stylert.runtime.serving.request_log import JsonLines

NAME = os.fsdecode(b"caf\xe9")


def test_the_name_of_a_bundle_that_is_not_utf_8_is_in_the_log() -> None:
    record = logging.makeLogRecord({"msg": "reload failed", "facts": {"error": f"bundle {NAME} is missing"}})
    assert json.loads(JsonLines().format(record))["error"] == r"bundle caf\xe9 is missing"


def test_the_name_of_a_bundle_that_is_not_utf_8_is_in_a_refusal() -> None:
    assert json.loads(error_body(f"bundle {NAME} is missing"))["error"] == r"bundle caf\xe9 is missing"
