"""The training stage: networks, losses, data, loop, checkpoints and metrics.

Nothing is imported here, so that `stylert.train.config` and `stylert.train.checkpoint` can be read without torch.
"""
