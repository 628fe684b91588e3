"""Code of the commands on latents: mix, sweep, interpolate, again, edit, project and `stylert directions`.

`commands.py` and `directions.py` declare their options. `drawing.py` and `editing.py` draw, `finding.py` finds directions, and
`projecting.py` finds the latents of pictures.
"""
