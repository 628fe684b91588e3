"""From a public checkpoint of a restoration network to its bundle.

- `plan.py`: forms, number types and quantisation of the layers, as data.
- `graph.py`: the pieces that the networks are written from. `upsampling.py` has the layers that double the side.
- `gfpgan.py`, `gpen.py`: the networks. `network.py` chooses between them.
- `calibration.py`: what the layers hold on photographs, and the plans that follow. `photographs.py` draws or reads those.
- `pipeline.py`: `export_restorer`. `verify.py`: the images of a bundle compared with PyTorch's.
"""
