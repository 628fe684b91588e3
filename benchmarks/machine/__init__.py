"""The machine of a measurement.

- `facts.py`: processor, memory, GPU, system and package versions; `nvml.py`: readings of an NVIDIA GPU
- `interference.py`: other programs, the hypervisor and throttling during a measurement
- `peak_rates.py`: the highest rates of arithmetic and memory, measured
- `layer_operators.py`: operations and bytes of each layer; `lower_bounds.py`: the least time of a network at these rates
"""
