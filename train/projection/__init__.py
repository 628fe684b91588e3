"""Real pictures in: the latents whose image looks like a given picture, found by optimisation.

- `projector.py`: the projection of one picture (Karras et al. 2020a, section 5 and appendix D).
- `schedule.py`: learning rate and noise of each step; `noise_maps.py`: the regulariser of optimised noise.
- `starts.py`: statistics of w, and the random latents that a projection starts from.
- `pictures.py`: picture files as targets of a network's size.
"""
