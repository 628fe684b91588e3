"""The schedule equals the paper's numbers for 1,000 steps, and keeps its shares for others."""

from __future__ import annotations

import numpy as np
import pytest

from stylert.core.errors import InputError
from stylert.train.projection.schedule import Schedule


def paper_rate(i: int) -> float:
    """Karras et al. 2020a, appendix D: 0.1, up in the first 50 of 1,000 steps, and down along a cosine in the last 250."""
    if i < 50:
        return 0.1 * i / 50
    return 0.1 if i <= 750 else 0.1 * (0.5 + 0.5 * float(np.cos(np.pi * (i - 750) / 250)))


def paper_noise(i: int) -> float:
    """The same: 0.05 t^2, and t goes from one to zero in the first 750 steps."""
    return 0.05 * ((750 - i) / 750) ** 2 if i < 750 else 0.0


def test_a_thousand_steps_are_those_of_the_paper() -> None:
    schedule = Schedule()
    assert (schedule.steps, schedule.learning_rate(0), schedule.noise_scale(0)) == (1000, 0.0, 0.05)
    for i in range(1000):
        np.testing.assert_allclose(schedule.learning_rate(i), paper_rate(i), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(schedule.noise_scale(i), paper_noise(i), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("steps", [1, 7, 200, 4000])
def test_other_numbers_of_steps_have_the_same_shares(steps: int, rng: np.random.Generator) -> None:
    schedule = Schedule(steps, rate=0.3, noise=0.2)
    for i in rng.integers(steps, size=20).tolist():
        at = 1000 * i / steps
        rise = at / 50 if at < 50 else 1.0
        fall = 1.0 if at <= 750 else 0.5 + 0.5 * np.cos(np.pi * (at - 750) / 250)
        np.testing.assert_allclose(schedule.learning_rate(i), 0.3 * rise * fall, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(schedule.noise_scale(i), 0.2 * max(0.0, (750 - at) / 750) ** 2, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(
    "values", [{"steps": 0}, {"rate": 0.0}, {"rate": float("nan")}, {"noise": -1.0}, {"noise": float("inf")}]
)
def test_a_value_out_of_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Schedule(**values)  # type: ignore[arg-type]
