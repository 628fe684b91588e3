"""StyleGAN3 (Karras et al. 2021): the alias-free generator, in configurations T and R and all between.

- `config.py`: hyperparameters. No torch.
- `layer_list.py`: the layers with their rates, bands, sizes and padding. No torch.
- `filters.py`: the low-pass filters of the layers. No torch.
- `state_dict.py`: name and shape of every tensor. No torch.
- `networks.py`: the generator in PyTorch.
"""
