"""Dragging: points of an image are pulled to their targets by its latents (Pan et al. 2023, Drag Your GAN).

Read in this order:

- `features.py`: the network's own features, from which the image is drawn.
- `motion.py`: the loss that moves the features around a handle, and the one that keeps the rest.
- `tracking.py`: where a handle is after a step.
- `dragger.py`: the loop of both, its settings, and the result.
"""
