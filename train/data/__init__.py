"""Training images.

Read during training:

- `dataset`: a zip or folder of the official layout.
- `loader`: batches on the device; `class_balance`: each class equally often.
- `lazy_images`: images that are decoded when they are needed.

Written before training:

- `dataset_tool`: makes such a zip from other files.
- `sources/`: one module per kind of file that the tool reads.

Read by both:

- `image_files`: the files of a zip or folder, within bounds; `labels`: their labels, from `dataset.json`.
"""
