"""The operators as GPU kernels, in Triton: one file per operator, each a kernel and its launcher.

The launchers take tensors by their interface alone (`shape`, `stride()`, `dtype`) and write into an output that the
caller gives, so nothing here imports torch, and a TensorRT plugin can compile the same kernels ahead of time. Their
argument order is the one that TensorRT's ahead-of-time plugins want: input pointers, 32-bit integers, output pointer;
every float is a compile-time constant. The modules import triton, and this package imports nothing, so that it can be
found on a machine without it.
"""
