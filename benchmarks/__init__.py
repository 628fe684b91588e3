"""Benchmarks: time, memory and accuracy of networks, kernels and training steps, with the machine and the conditions.

- `suite.py`: one run of `stylert bench`; `scenarios/`: its measurements; `models.py` and `standard_networks.py`: the models it measures
- `layer_times.py` and `layer_assignment.py`: time per layer; `kernels/`: the GPU kernels; `training.py`: steps of training
- `processes.py`: a new process for each measurement
- `peers/`: the same network without stylert
- `machine/`: facts, peak rates, lower bounds, and interference by other programs
- `schema.py` and `document_parts.py`: the file format of all results; `sample_statistics.py`: statistics of one series
- `report/`: tables, plots, HTML pages and comparisons

`results/` and `tools/` belong to the repository and are not in the wheel.
"""
