"""A bundle's ONNX network in PyTorch.

- `graph`: reads the file and runs its nodes in order.
- `operators`: the ONNX operators that it knows, in PyTorch.
- `fusion`: finds the nodes that one launch of a kernel replaces. On a GPU a synthesis network becomes one launch per layer.
- `launches`: these launches, with weights that are folded and laid out once.
- `host_images`: pinned host memory for the images.
"""
