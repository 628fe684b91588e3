"""The log of a server: one JSON line per event on standard error.

A thread writes the lines. So a reader that stalls holds up no request: lines that find no room are dropped.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

from stylert.core.files.outputs import document_values

#: Lines that wait to be written.
ROOM = 10_000
LOGGERS = ("stylert.serving", "uvicorn.error")


class JsonLines(logging.Formatter):
    """Formats a record as one JSON object: time, level, event, and the facts that the record carries as `facts`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line).decode()
        except UnicodeEncodeError:  # the name of a file that is not UTF-8
            return msgspec.json.encode(document_values(line)).decode()


class _DroppingHandler(logging.handlers.QueueHandler):
    """A queue handler without room drops the line, and leaves the record as it is for its formatter."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self.queue.put_nowait(record)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


@contextmanager
def json_log(level: int = logging.INFO) -> Iterator[None]:
    """Write the log of the server to standard error while the context is open."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    lines: queue.Queue[logging.LogRecord] = queue.Queue(ROOM)
    listener = logging.handlers.QueueListener(lines, handler)
    entry = _DroppingHandler(lines)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(entry)
        logger.setLevel(level if logger.name == "stylert.serving" else max(level, logging.WARNING))
        logger.propagate = False
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        for logger, (old_level, propagate) in zip(loggers, before, strict=True):
            logger.removeHandler(entry)
            logger.setLevel(old_level)
            logger.propagate = propagate
