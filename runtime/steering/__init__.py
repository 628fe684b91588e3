"""Latents of pictures, and directions: moves of latents and styles that change one thing in an image.

- `directions_file`: `Directions`, and their file.
- `latents_file`: `Latents` of pictures, and their file.
- `tensor_files`: what these two files have in common.
- `unsupervised`: directions from the style weights (SeFa), or from the spread of w (GANSpace).
- `supervised`: directions from scores of images, in w or in the StyleSpace.
- `score_files`: reads scores from CSV files, and from folders of pictures that carry their recipes.
- `moves`: a move such as `smile=+2`, applied to ws and to style offsets.
"""
