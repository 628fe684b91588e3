"""A bundle's ONNX network in PyTorch.

- `graph`: reads the file and runs its nodes in order.
- `operators`: a node, and the ONNX operators that the backend knows, in PyTorch.
- `fusion`: replaces nodes by launches of kernels, one for each layer. `chains` finds the nodes in an `onnx_graph`,
  and `node_chain` follows a tensor through them.
- `launches`: these launches, with weights that are folded and laid out once.
- `prepared_batch`: the network for one batch, with its CUDA graph.
- `host_images`: pinned host memory for the images.
"""
