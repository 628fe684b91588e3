"""A bundle as a model repository of Triton Inference Server. Writing it needs neither Triton nor the extra `serve`.

- `options`: how Triton runs the models.
- `repository`: writes the folder.
- `configurations`: the models of each backend, with their configurations and files.
- `network_files`: the files that a backend of Triton opens, made of those of the bundle.
- `protobuf_text`: configurations as text.
- `python_backend/model.py`: what Triton's Python backend imports.
"""
