"""Where training images come from: folders, zips, LMDB, CIFAR, MNIST, Parquet and Arrow, each as a stream of pictures."""
