"""The networks of StyleGAN2 in PyTorch, in one place to import from.

They are written in three files, to be read in this order: `layers.py`, `generator.py`, `discriminator.py`.
"""

from stylert.models.stylegan2.discriminator import Discriminator
from stylert.models.stylegan2.generator import Generator, SynthesisLayer, SynthesisNetwork, ToRGB

__all__ = ["Discriminator", "Generator", "SynthesisLayer", "SynthesisNetwork", "ToRGB"]
