"""The networks: their configurations, PyTorch modules and checkpoints, and readers of other projects' checkpoints.

- `stylegan2/`: the network that the other stages train, export and run.
- `stylegan1/`: its predecessor, which they export and run.
- `stylegan3/`: the alias-free network, which they export and run.
- `network_config.py`: the part of a configuration that all networks share. `network_kinds.py` lists the networks.
- `checkpoint.py`: stylert's own files.
- `importers/`: files of other projects.
- `features/`: networks whose features compare images, for metrics and for the projected discriminator.
- `projected_discriminator.py`: the discriminator of Projected GANs, which judges such features.

The folder of a generative network holds:

- `config.py`: a frozen dataclass of hyperparameters, and the list of layers with name, shape and latent.
- `state_dict.py`: name and shape of every tensor, from the configuration.
- `networks.py`: the PyTorch modules, whose state dict has these names and shapes.

Its row in `network_kinds.py` is the one place by which checkpoints and the other stages find it. A reader of its foreign
checkpoints is a module in `importers/`.

Each stage needs a part of it. Export needs the list of layers and the arrays, without torch. Training needs the modules.
A checkpoint needs the configuration as JSON (`to_dict`, `from_dict`) and the shapes.
"""
