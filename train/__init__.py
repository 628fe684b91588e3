"""The training stage: from images to a checkpoint.

- `configuration/`: the hyperparameters of a run, the presets of StyleGAN2-ADA, and what a resumed run may change.
- `loop`: trains until the end or a signal, and writes statistics and snapshots; `stop_request`: the signal.
- `trainer`: one training step; `phase_losses`: the loss of each of its phases; `losses`: the formulas.
- `parallel`: several processes that train together; `compile_check`: checks torch.compile.
- `snapshots/`: what a run saves, and how it resumes; `reporting/`: statistics for files, TensorBoard and wandb.
- `transfer`, `imported_start`: runs that start from other networks; `run_cost`: what a run will take.
- `sampling`: images of a generator by seed; `selection`: some images of a dataset, and their mirror images.
- `watermark/`: a mark in the weights of a generator.
- `data/`: datasets and the dataset tool; `augment/`: adaptive augmentation; `metrics/`: FID and its relatives.

This file imports nothing, so `configuration/` loads without PyTorch.
"""
