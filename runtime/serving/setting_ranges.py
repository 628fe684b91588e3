"""Ranges of the settings that the server, Triton Inference Server and Ray Serve share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stylert.core.errors import InputError
from stylert.core.ranges import check_ranges

#: Least and greatest value. The options of the commands have the same (`stylert.cli.serving_options`).
SHARED_RANGES: dict[str, tuple[float, float]] = {
    "max_batch": (1, 1024),
    "max_delay_ms": (0, 10_000),
    "threads": (1, 1024),
}


def check_settings(settings: Any, own_ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check the numbers of settings.

    Args:
        settings: A data class.
        own_ranges: Ranges of the fields that are not in `SHARED_RANGES`.

    Raises:
        InputError: A value is of another type, or out of range.
    """
    try:
        check_ranges(settings, SHARED_RANGES | dict(own_ranges))
    except ValueError as e:
        raise InputError(str(e)) from None
