"""Code of the commands dataset, augment-preview, train and metrics.

`commands.py` declares their options. The other modules run them.
"""
