"""GPEN (Yang et al. 2021, "GAN Prior Embedded Network for Blind Face Restoration in the Wild").

- `config.py`: sizes, and name and shape of every tensor. No torch.
- `reader.py`: the configuration and the arrays of a public file. No torch.
- `networks.py`: the network in PyTorch.
"""
