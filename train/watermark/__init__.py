"""A mark inside the weights of a generator: every image of the marked network carries the bits of a key.

The idea is that of "The Stable Signature" (Fernandez et al. 2023) for latent diffusion, carried to StyleGAN2.

- `attacks`: edits of an image that the mark has to survive, differentiable. `jpeg` is the largest of them.
- `residual`: a small network that takes the image away and leaves the mark.
- `decoder`: reads bits from the residual by secret patterns.
- `fine_tuning`: trains the last layers of a generator until the decoder reads the key from every image.
- `marking`: the whole way from a generator to a marked one.

`stylert.runtime.watermark` reads the mark without PyTorch.
"""
