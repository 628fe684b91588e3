"""Code of the commands export, build, tune, generate, verify, demo and import.

`commands.py` declares their options. The other modules run the longer ones.
"""
