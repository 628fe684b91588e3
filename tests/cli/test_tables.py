"""Tables show what was measured, and say what was not."""

from __future__ import annotations

import pytest

from stylert.cli.tables import show_tuning
from stylert.core.statistics import Ratio
from stylert.export.network_plan import NetworkPlan
from stylert.export.tuning.search import Search, Trial
from stylert.export.tuning.tune import Tuning


def test_a_tuning_shows_missing_bounds_and_refused_changes(capsys: pytest.CaptureFixture[str]) -> None:
    """A slow machine makes too few pairs for an interval."""
    trials = [
        Trial("b8.conv0", "a -> b", 0.75, Ratio(0.75, None, None, 5), taken=True),
        Trial("b8.conv1", "a -> c", 0.5, Ratio(0.5, 0.25, None, 7)),
        Trial("b16.conv0", "a -> d", 0.625, None),
        Trial("b16.conv1", "a -> e", 1.0, None, refused="no such kernel"),
    ]
    show_tuning(Tuning(Search(NetworkPlan(), trials, Ratio(0.75, None, None, 5), False), True, None))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for expected in (
        "b8.conv0 a -> b 0.750 ? to ? 5 taken",
        "b8.conv1 a -> c 0.500 0.250 to ? 7",
        "b16.conv0 a -> d 0.625 measured before",
        "b16.conv1 a -> e - - refused",
        "refused: no such kernel",
    ):
        assert expected in lines, lines
    assert "1.33 [?, ?] times as fast" in " ".join(lines)
