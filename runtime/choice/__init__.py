"""The meaning of `auto`: the fastest backend of this machine, and the fastest precision that is accurate enough on it.

- `auto`: resolves both names when a bundle is loaded.
- `backend`: times the backends on one image, and caches the times.
- `precision`: compares the precisions with float32, times the accurate ones, and caches both.
"""
