"""The two StyleGAN2 operators, Upfirdn2d and ModulatedConv2d, in all their faces.

Nothing is imported here: every face lives in its own module and pulls in only what it needs, so that the runtime can
use the ONNX definitions without torch.
"""
