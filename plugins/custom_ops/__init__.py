"""The operators as PyTorch custom ops over the Triton kernels. They can be differentiated twice.

One file per operator, and `define.py`, which registers an op. `stylert.plugins.ops` chooses between these ops and the
references.

Each file has a named tuple of the op's arguments, which gives PyTorch's schema, and functions of that tuple: the
computation, its fake version for shapes, and its gradient. `torch.compile` and `torch.export` see one node per op. An
op computes the reference where the kernels do not serve its input.
"""
