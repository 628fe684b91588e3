"""StyleGAN2 (Karras et al. 2020a), with the label mapping and half precision of StyleGAN2-ADA (Karras et al. 2020b).

- `config.py`: hyperparameters, and the list of layers with their shapes. No torch.
- `state_dict.py`: name and shape of every tensor. No torch.
- `style_space.py`: z to w, and w to the styles of all layers, in NumPy. No torch.
- `layers.py`, `generator.py`, `discriminator.py`: the networks in PyTorch, which `networks.py` exports.
"""
