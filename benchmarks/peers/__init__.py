"""The same network with and without stylert, measured in one run.

- `candidates.py`: the ways to run the network, ours and those of others (peers)
- `runners.py`: loads a candidate; `quantized_exports.py`: the peers in 8 bits
- `textbook_network.py`: the network as it is usually written in PyTorch
- `interleaved.py`: candidates timed in alternation, for ratios that a shared machine does not change
- `comparison.py`: every candidate measured, and the command line `python -m stylert.benchmarks.peers`
- `restoration.py`, `textbook_restoration.py`: the same for restoration networks, `python -m stylert.benchmarks.peers.restoration`
- `rows.py`: the measurements as rows of a results file
"""
