"""GFP-GAN (Wang et al. 2021, "Towards Real-World Blind Face Restoration with Generative Facial Prior"), without custom operators.

- `config.py`: sizes, and name and shape of every tensor. No torch.
- `reader.py`: the configuration and the arrays of a public file. No torch.
- `networks.py`: the network in PyTorch.
"""
