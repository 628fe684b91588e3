"""The commands of the training stage: dataset, augment-preview, train, metrics."""
