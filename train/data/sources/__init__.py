"""The files that the dataset tool reads, each as a stream of pictures.

- `detect`: chooses the module for a path.
- `picture`: the types `Picture` and `Source`, and limits against hostile files.
- `files`: folders and zips of image files; `lmdb`: LMDB, as for LSUN; `cifar`: CIFAR-10 and CIFAR-100.
- `idx`: MNIST and Fashion-MNIST; `columnar`: Parquet and Arrow, as for Hugging Face datasets.
- `packed`: gzipped files, up to a size.
- `native`: reads LMDB, Parquet and Arrow in `reading_process`, which hands over `messages`.
"""
