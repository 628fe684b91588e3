"""The operators Upfirdn2d and ModulatedConv2d of StyleGAN2 in all their forms, and bias_act, which training uses too.

- Definition: `shapes.py` (shape and attribute checks), `constants.py` (numbers), `fir_folding.py` (the FIR folded into
  weights).
- PyTorch reference: `reference/`, differentiable twice, any device.
- ONNX function bodies: `onnx_functions.py`, run by any ONNX runtime. `onnx_body_parts.py` holds what bodies share.
  `onnx_nodes.py` reads the nodes and refuses wrong ones.
- FilteredLrelu of StyleGAN3: `filtered_lrelu.py` (shapes and attributes), `filtered_lrelu_node.py` (ONNX node and body).
  It has a PyTorch reference, and no kernel or TensorRT plugin yet.
- Winograd's form: `winograd.py` (the matrices, in exact arithmetic), `winograd_nodes.py` (one layer as ONNX nodes),
  `winograd_rewrite.py` (operator nodes of a network into this form).
- GPU kernels: `triton/`, with their launchers and their tables of tiles; `eight_bit.py` prepares int8 and FP8 operands.
- PyTorch custom ops over the kernels: `custom_ops/`. `ops.py` chooses between these and the reference; networks call
  it.
- TensorRT plugins: `tensorrt.py`. `aot.py` compiles every kernel without a GPU.

This file imports nothing. Each form imports only its own needs, so the runtime reads the ONNX definitions without
torch.
"""
