"""The training stage: from images to a checkpoint.

- `configuration/`: the hyperparameters of a run, the presets of StyleGAN2-ADA, and what a resumed run may change.
- `loop`: trains until the end or a signal, and writes statistics and snapshots.
- `trainer`: one training step and the state between steps; `losses`: its loss functions.
- `parallel`: several processes that train together; `compile_check`: checks torch.compile.
- `snapshot`: the file that a run resumes from; `best_snapshot`: the snapshot with the best metric.
- `reporting/`: statistics for files, TensorBoard and wandb.
- `transfer`, `imported_start`: runs that start from other networks; `run_cost`: what a run will take.
- `sampling`: images of a generator by seed; `selection`: some images of a dataset, and their mirror images.
- `data/`: datasets and the dataset tool; `augment/`: adaptive augmentation; `metrics/`: FID and its relatives.

This file imports nothing, so `configuration/` loads without PyTorch.
"""
