"""Photographs of faces, restored by a network. No torch.

- `bundle.py`: the folder with the networks, and its manifest `restorer.json`.
- `restorer.py`: `Restorer`, which restores arrays of photographs.
- `photographs.py`: pictures as photographs, their change of size, and boxes of faces that are put back into a picture.
- `facts.py`: what a restored picture says about itself.
"""

from stylert.runtime.restoration.bundle import RestorerBundle
from stylert.runtime.restoration.restorer import Restorer

__all__ = ["Restorer", "RestorerBundle"]
