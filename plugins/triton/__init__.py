"""The operators as GPU kernels in Triton.

- `upfirdn2d.py`, `bias_act.py`: kernels and launchers.
- `modulated_conv2d.py`: launcher. Its kernels are in `conv_kernels.py`, their common parts in `conv_kernel_parts.py`.
- `tiles.py`: chooses the tile of a layer from `tile_tables/`. `cost_model.py` is the model that wrote these tables.
- `node_launch.py`: the launch of a kernel for one ONNX node, as a TensorRT plugin needs it.
- `compiler.py`, `variants.py`: compilation for GPUs that are not in this machine.

Launchers use only `shape`, `stride()` and `dtype` of a tensor, and write into an output of the caller. So nothing here
imports torch. The arguments of a kernel have the order of TensorRT's ahead-of-time plugins: input pointers, 32-bit
integers, output pointer. Floats are compile-time constants. This package itself imports nothing, so a machine without
Triton can import it.
"""
