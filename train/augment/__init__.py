"""Adaptive discriminator augmentation (Karras et al. 2020b): six groups of transformations, and the control of p."""
