"""Engines and arrays on an NVIDIA GPU, without torch.

- `engine_session`: a TensorRT or TensorRT-RTX engine as a `DeviceSession`.
- `execution_slot`: one of its concurrent batches, with stream, memory and CUDA graph.
- `kernel_cache`: the kernels that TensorRT-RTX compiles, kept in a file.
- `driver`: calls of the CUDA driver.
- `arrays`: arrays of other libraries, as inputs or as the place of the images.
- `device_array`: images on the GPU, for other libraries.
- `dlpack`: the protocol between both.
"""
