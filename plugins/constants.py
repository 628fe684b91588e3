"""Numbers in the operators' definitions that every face shares. No imports beyond the standard library."""

from __future__ import annotations

import math

#: Keeps the demodulation finite for a style of zeros (Karras et al. 2020, equation 3).
DEMOD_EPS = 1e-8

LRELU_SLOPE = 0.2

#: Activation name to the gain that keeps the variance of a unit normal input (He et al. 2015).
ACTIVATION_GAIN = {"linear": 1.0, "lrelu": math.sqrt(2.0)}
