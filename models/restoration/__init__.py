"""Networks that restore photographs of faces: an encoder of the photograph, and StyleGAN2's synthesis network as a decoder.

- `sizes.py`: the checks that the configurations share.
- `gfpgan/`: GFP-GAN (Wang et al. 2021) in its form without custom operators.
- `gpen/`: GPEN (Yang et al. 2021).
- `checkpoints.py`: reads the public files of both, as arrays under the public names.
"""
