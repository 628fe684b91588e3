"""StyleGAN (Karras et al. 2018), called StyleGAN1 here: styles scale and shift instance-normalised activations.

- `config.py`: hyperparameters, and the list of layers. No torch.
- `state_dict.py`: name and shape of every tensor. No torch.
- `networks.py`: the generator in PyTorch.
"""
