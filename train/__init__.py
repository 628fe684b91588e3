"""The training stage: networks, losses, data, loop, checkpoints and metrics.

Nothing is imported here, so that `stylert.models.stylegan2.config` and `stylert.models.checkpoint` can be read without torch.
"""
