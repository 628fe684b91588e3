"""Reports of a run while it trains: statistics, pictures and times.

- `statistics`: averages the statistics of the steps, and writes `stats.jsonl`.
- `writers`: the interface of everything else that receives statistics and pictures.
- `tensorboard`, `weights_and_biases`: two such writers. The command line has a third, the terminal.
- `phase_timer`: seconds of each phase of a step.
"""
