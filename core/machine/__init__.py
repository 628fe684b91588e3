"""This machine: `host` is its processor and memory, `devices` its GPUs. `gpu_specs` holds data sheets of GPUs."""
