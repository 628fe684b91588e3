"""Checkpoints of other projects, read without running anything that they contain.

From the bytes up: `pickle_reader` interprets pickle opcodes into plain data, `records` says which foreign names may be
called and what they make, `archive` opens the containers of `torch.save`. On these stand the three layouts, `official`
(stylegan2-ada-pytorch and the stylegan3 repository), `rosinality` and `tensorflow`, and `imported` is the way in.
Nothing here needs torch, and nothing is imported by this file.
"""
