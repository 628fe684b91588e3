"""How far a latent space and its directions are disentangled.

- `attributes`: reads attributes of images: scores of a user, or the parts of a dataset that names them.
- `separability`: whether a hyperplane in z or w separates the images with an attribute from those without it.
- `leakage`: what else a direction changes.
- `measurement`: all of these for one generator, and its perceptual path length.
"""
