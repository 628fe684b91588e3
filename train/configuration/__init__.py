"""The configuration of a run. Loads without PyTorch.

- `train_config`: all hyperparameters, and the range of each.
- `presets`: the presets of StyleGAN2-ADA, and a preset as the configuration for a dataset.
- `settings`: single values by name, as a user writes them.
- `resumed_settings`: the values that a resumed run may change.
"""
