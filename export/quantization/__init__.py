"""8 bits: calibration, clipping ranges, rounding of weights, and the choice of layers that stay in float."""
