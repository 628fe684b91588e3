"""Incremental synthesis: an image whose first layers are those of an image before costs only the layers behind them.

- `stages.py` cuts a synthesis network into stages.
- `kept_features.py` keeps what the stages gave for the last latents, in bounded memory.
- `session.py` runs them as one `Session`, and `opening.py` opens it for a bundle.
"""
