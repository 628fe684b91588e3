"""Reads the mark of a marked generator from pictures, on ONNX Runtime.

- `detector_file`: the file that `stylert watermark train` writes: the decoder as an ONNX network, with the key and facts.
- `decoder_graph`: the graph of the decoder. A file is trusted for its weights alone.
- `detection`: reads the bits of a picture, and compares them with the key.
- `false_positives`: how likely chance is to match as many bits.
"""
