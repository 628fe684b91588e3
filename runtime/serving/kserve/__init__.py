"""The KServe v2 protocol, also known as the Open Inference Protocol, so that stock clients such as `tritonclient` work.

- `tensors`: the data types of the protocol, and tensors as JSON lists or raw bytes.
- `answers`: the answer to an inference over HTTP.
- `inference`: a served model as tensors: its inputs, its outputs, and one inference.
- `http_routes`: the protocol over HTTP, with the binary tensor extension of Triton.
- `grpc_messages`, `grpc_server`: the protocol over gRPC.
"""
