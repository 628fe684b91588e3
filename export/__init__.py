"""The export stage: a trained generator becomes a bundle of ONNX networks. No torch: weights are read as NumPy arrays."""
