"""Metrics of a generator.

- `metric`: the metrics by name, such as `fid50k`; `evaluator`: computes them; `evaluation_inputs`: what they are computed from.
- `features`: features of real and generated images.
- `distances`: FID, KID, precision and recall, Inception Score, as functions of features.
- `perceptual_path`: perceptual path length (PPL).
- `coverage`: mode coverage on datasets of known parts; `separability`: linear separability of a latent space.
"""
