"""Engines on an NVIDIA GPU without torch: memory, streams, CUDA graphs and arrays of other libraries."""
