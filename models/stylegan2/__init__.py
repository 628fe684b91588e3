"""StyleGAN2 (Karras et al. 2020): `config` lists the layers as data, `networks` builds them in PyTorch."""
