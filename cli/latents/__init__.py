"""Code of the commands on latents: mix, sweep, interpolate, again, edit, project, disentanglement and `stylert directions`.

`commands.py` and `directions.py` declare their options. `drawing.py` and `editing.py` draw, `finding.py` finds directions, and
`projecting.py` finds the latents of pictures. `disentangling.py` measures how far a network and its directions are disentangled.
"""
