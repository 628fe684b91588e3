"""Checks of every GPU kernel against a float64 reference on random shapes: `python -m stylert.benchmarks.kernels.parity`.

- `__main__`: the command.
- `check`: a result and its error, and random operands.
- `convolutions`: ModulatedConv2d in all dtypes, also with torgb.
- `operators`: upfirdn2d, bias_act, torgb and the PyTorch ops.
"""
