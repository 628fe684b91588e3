"""The state and the files that a run saves, and how it is restored.

- `trainer_state`: the state of a trainer as tensors and JSON values.
- `snapshot_file`: the file that holds them, from which a run resumes.
- `run_folder`: the snapshots, the generator file and the grids of samples in the folder of a run.
- `best_snapshot`: the generator with the best metric.
"""
