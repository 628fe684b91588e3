"""Code of the commands mix, sweep, interpolate and again.

`commands.py` declares their options, `drawing.py` runs them.
"""
