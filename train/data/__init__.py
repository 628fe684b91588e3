"""Training images: the dataset tool, the sources that it reads, and the loader."""
