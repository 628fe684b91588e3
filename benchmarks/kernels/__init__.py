"""The GPU kernels by themselves: tiles, parity, time per layer, and the whole synthesis network."""
