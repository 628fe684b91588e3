"""Adjusts the augmentation probability p to the overfitting of the discriminator (Karras et al. 2020b, section 3.1)."""

from __future__ import annotations

import math
from typing import Any

#: Steps between two adjustments (ada_interval of the official code). The heuristic is averaged over them.
INTERVAL = 4


class AdaptiveProbability:
    """The probability p of each transformation, controlled by the heuristic r_t = E[sign(D(real))].

    Every 4 steps, p rises by a fixed amount if r_t is above the target, and falls if r_t is below. It stays in [0, 1].

    Attributes:
        p: The current probability.
    """

    def __init__(self, batch: int, target: float = 0.6, kimg: float = 500.0, p: float = 0.0) -> None:
        """Start at `p`.

        Args:
            batch: Images per step.
            target: Target of r_t, `ada_target` of the configuration.
            kimg: Thousands of images in which p can rise from 0 to 1, `ada_kimg`.
            p: The first probability.
        """
        self.change = batch * INTERVAL / (kimg * 1000)
        self.target, self.p = target, p
        self.sign_sum = 0.0
        self.steps = 0

    def update(self, real_sign: float) -> None:
        """Take the mean of sign(D(real)) over one step, and adjust p when it is due."""
        self.sign_sum += real_sign
        self.steps += 1
        if self.steps == INTERVAL:
            excess = self.sign_sum / INTERVAL - self.target
            change = math.copysign(self.change, excess) if excess != 0 else 0.0
            self.p = min(max(self.p + change, 0.0), 1.0)
            self.sign_sum, self.steps = 0.0, 0

    def state(self) -> dict[str, Any]:
        """JSON values from which `load_state` restores this object exactly."""
        return {"p": self.p, "signs": self.sign_sum, "steps": self.steps}

    def load_state(self, facts: object) -> None:
        """Restore what `state` returned.

        Raises:
            ValueError: This is no such dictionary, or a value is missing or out of range.
        """
        if not isinstance(facts, dict):
            raise ValueError("the state of the adaptive augmentation is no dictionary")
        values = [facts.get(name) for name in ("p", "signs", "steps")]
        p, sign_sum, steps = (float(v) if isinstance(v, int | float) else math.nan for v in values)
        if not (0 <= p <= 1 and math.isfinite(sign_sum) and steps in range(INTERVAL)):
            raise ValueError("the state of the adaptive augmentation is not valid")
        self.p, self.sign_sum, self.steps = p, sign_sum, int(steps)
