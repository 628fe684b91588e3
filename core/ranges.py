"""The ranges of numbers in a configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from stylert.core.errors import shown


def check_ranges(config: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check the numbers of a configuration.

    A field whose annotation begins with `int` takes whole numbers alone, and None only if the annotation has it.

    Args:
        config: A data class.
        ranges: Least and greatest value of each field. Fields that the configuration lacks are passed over.

    Raises:
        ValueError: A field is no such number, or out of its range. The message names it.
    """
    for field in dataclasses.fields(config):
        if field.name not in ranges:
            continue
        (least, greatest), value, kind = ranges[field.name], getattr(config, field.name), str(field.type)
        if value is None and "None" in kind:
            continue
        is_whole = kind.startswith("int")
        types = (int, np.integer) if is_whole else (int, float, np.integer, np.floating)
        if isinstance(value, bool) or not isinstance(value, types):
            raise ValueError(f"{field.name} must be a {'whole ' if is_whole else ''}number, not {shown(value)}")
        if not least <= value <= greatest:
            raise ValueError(f"{field.name} must lie in {least:.10g} to {greatest:.10g}, not {shown(value)}")
