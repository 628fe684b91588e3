"""The GPU kernels by themselves. `benchmarks/gpu_suite.sh` runs the commands one after the other.

Commands, each a module of `python -m stylert.benchmarks.kernels.<name>`:

- `parity`: every kernel against float64.
- `autotune`: the tables of tiles, measured or by the cost model.
- `layers`: each layer in several forms (`operator_forms`), with times and lower bounds.
- `warm_up`: compiles the kernels of the network in several processes.
- `trace`: milliseconds of every launch.
- `whole_network`: the network of the torch backend beside PyTorch's forms of it (`network_forms`, `eight_bit_network`).

Shared by them:

- `options`: command-line options and the measured networks.
- `device`: the GPU, or the CPU of a dry run.
- `timing`, `gpu_rates`: time of single calls, and the peak rates of the GPU.
- `results`: rows and result files.
"""
