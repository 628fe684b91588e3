"""The encoder of a generator as networks of a bundle.

- `networks`: the ONNX networks of an encoder in float32, float16 and 8 bits.
- `adding`: measures them, and adds them to a bundle.
"""
