"""The schedule of a projection (Karras et al. 2020a, appendix D): learning rate, and noise that is added to w.

The paper gives it for 1,000 steps. Shorter and longer projections have the same shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stylert.core.errors import InputError

#: Shares of the steps in which the learning rate rises, and in which it falls.
RISE, FALL = 0.05, 0.25
#: Share of the steps in which noise is added to w.
EXPLORATION = 0.75


@dataclass(frozen=True)
class Schedule:
    """The values of each step.

    Attributes:
        steps: Number of steps.
        rate: Largest learning rate, the paper's lambda_max.
        noise: Standard deviation of the first noise on each number of w, in units of sigma_w.

    Raises:
        InputError: A value is out of range.
    """

    steps: int = 1000
    rate: float = 0.1
    noise: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"a projection takes 1 step or more, not {self.steps}")
        if not (0 < self.rate < math.inf and 0 <= self.noise < math.inf):
            raise InputError(f"the learning rate is above 0 and the noise not below, got {self.rate} and {self.noise}")

    def learning_rate(self, step: int) -> float:
        """The learning rate of step 0, 1, ...: it rises linearly from zero, and falls to zero along a cosine."""
        share = step / self.steps
        rise = min(1.0, share / RISE)
        fall = min(1.0, (1 - share) / FALL)
        return self.rate * rise * (1 - math.cos(math.pi * fall)) / 2

    def noise_scale(self, step: int) -> float:
        """The standard deviation of the noise on w in units of sigma_w: `noise * t^2`, and t falls from one to zero."""
        return self.noise * max(0.0, 1 - step / self.steps / EXPLORATION) ** 2
