"""This machine: `host` is its processor and memory, `byte_products` its 8-bit arithmetic, `devices` its GPUs. `allocation` sets the
allocator of this process.

`gpu_specs` holds data sheets of GPUs.
"""
