"""The encoder of a generator: trained on the generator's own images, and refined for each picture.

- `pairs`: random latents and their images, which are the training pairs.
- `training`: the loss, the training, and the figures on images of fresh seeds.
- `curvature`: how much each direction of ws changes images, in the mean.
- `refinement`: a few steps of optimisation that start from an encoder's latents.

`stylert.models.latent_encoder` is the network.
"""
