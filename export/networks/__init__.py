"""How the networks of a bundle are written, one module for each kind of network.

- `exporter.py`: the interface, `NetworkExporter`, and the request of the user.
- `stylegan1.py`, `stylegan2.py`, `stylegan3.py`: the exporters. `exporters.py` finds the one of a network.
"""
