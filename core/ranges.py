"""The ranges of numbers in a configuration."""

from __future__ import annotations

from collections.abc import Mapping

from stylert.core.errors import shown


def check_ranges(config: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Check the numbers of a configuration.

    Args:
        config: A configuration with finite numbers. Fields that it lacks, or that are None, are passed over.
        ranges: Least and greatest value of each field.

    Raises:
        ValueError: A field is out of its range. The message names it.
    """
    for name, (least, greatest) in ranges.items():
        value = getattr(config, name, None)
        if value is not None and not least <= value <= greatest:
            raise ValueError(f"{name} must lie in {least:.10g} to {greatest:.10g}, not {shown(value)}")
