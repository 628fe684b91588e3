"""Benchmarks: how fast and how good, on which machine, under which conditions."""
