"""Adaptive discriminator augmentation, ADA (Karras et al. 2020b).

- `groups`: the groups of transformations and the pipelines made of them; `pipeline`: applies a pipeline to images.
- `adaptive`: adjusts the probability p during training.
- `geometry`: random parameters of `blit` and `geom`; `resampling`: applies them.
- `color`: the group of this name; `corruption`: `filter`, `noise` and `cutout`.
- `diffaug`: DiffAugment, a cheaper pipeline of its own.
- `random_parameters`, `wavelets`: random numbers and filters that these share.
- `preview`: a contact sheet of all groups.
"""
