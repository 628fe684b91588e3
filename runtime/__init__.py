"""The runtime: loads a bundle and makes images. Importing it loads NumPy and msgspec, and no library of a backend.

- `bundle`: the bundle's manifest and files. `bundle_signature` signs them, and checks the signature.
- `generator`: `Generator`, from seeds or latents to images. Its arguments become inputs in `network_inputs`, checked one by one by
  `input_checks`.
- `loading`: opens networks as sessions; `engines` builds engines into a bundle and verifies them.
- `session`: the protocols of a loaded network; `batching` splits batches for it.
- `backends/`: the libraries that run networks; `build_options`, `lowering` and `symmetric_steps` prepare what they build.
- `layer_forms`: graph forms of float32 layers on ONNX Runtime, by the class of the processor.
- `network_files`: checks of an ONNX file before it is opened. `forking`: networks in the children of a process.
- `choice/`: the meaning of `auto`, as backend and as precision.
- `style_levels`: style levels and style mixing.
- `cuda/`: TensorRT engines and arrays on a GPU. `media/`: pictures, videos and their recipes.
- `steering/`: directions in w and in the styles, and moves along them.
- `watermark/`: reads the mark of a marked network from pictures.
"""

from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator

__all__ = ["Bundle", "Generator"]
