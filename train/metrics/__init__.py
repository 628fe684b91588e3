"""Metrics of a generator: distances of features, path length, mode coverage, separability."""
