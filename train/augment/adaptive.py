"""The control of the augmentation probability p by the discriminator's overfitting (Karras et al. 2020b, section 3.1)."""

from __future__ import annotations

import math
from typing import Any

#: Steps between adjustments, over which the heuristic is averaged.
INTERVAL = 4


class AdaptiveP:
    """p, moved every 4 steps by the sign of `r_t - target`, where r_t is the mean of `sign(D(real))`.

    p rises from 0 to 1 within `kimg` thousand images at the fastest, and stays within [0, 1].
    """

    def __init__(self, batch: int, target: float = 0.6, kimg: float = 500.0, p: float = 0.0) -> None:
        self.change = batch * INTERVAL / (kimg * 1000)
        self.target, self.p = target, p
        self.signs = 0.0
        self.steps = 0

    def update(self, real_sign: float) -> None:
        """Take the mean sign of one step's logits of real images."""
        self.signs += real_sign
        self.steps += 1
        if self.steps == INTERVAL:
            excess = self.signs / INTERVAL - self.target
            self.p = min(max(self.p + math.copysign(self.change, excess) * (excess != 0), 0.0), 1.0)
            self.signs, self.steps = 0.0, 0

    def state(self) -> dict[str, Any]:
        """JSON facts from which `load_state` goes on exactly."""
        return {"p": self.p, "signs": self.signs, "steps": self.steps}

    def load_state(self, facts: dict[str, Any]) -> None:
        """ValueError when the facts are not those of `state`."""
        values = [facts.get(name) for name in ("p", "signs", "steps")]
        p, signs, steps = (float(v) if isinstance(v, int | float) else math.nan for v in values)
        if not (0 <= p <= 1 and math.isfinite(signs) and steps in range(INTERVAL)):
            raise ValueError("the state of the adaptive augmentation is not valid")
        self.p, self.signs, self.steps = p, signs, int(steps)
