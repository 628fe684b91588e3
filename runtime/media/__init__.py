"""Pictures and videos of a generator: their recipes, their pixels and their files.

- `recipes`: the data on which a picture or video depends.
- `rendering`: the pixels of a recipe.
- `composition`: the latents of a picture that several seeds make.
- `interpolation`: paths through latent space, for the frames of a video.
- `pictures`, `video`: writing the files, each with its recipe as a comment.
- `signed_recipes`: reading the recipe of a file together with its signature.
- `image_metadata`: reading the comment of a file without decoding its pixels.
"""
