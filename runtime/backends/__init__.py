"""The backends, one module each. `base.py` defines their interface and says how to add one.

- `onnxruntime`, `openvino`, `mnn`: on the CPU. `mnn_network` converts networks for MNN. `openvino_products` and
  `openvino_forms` rewrite those for OpenVINO by the class of the processor.
- `onnxruntime_cuda`, `torch`: on a GPU, from the bundle's ONNX files. `torch_network/` is the network of `torch`.
- `tensorrt`, `tensorrt_rtx`: on a GPU, from built engines. Both build with `tensorrt_build`, which reports the
  engine's kernels through `kernel_table`, and run in `stylert.runtime.cuda`.
"""

from __future__ import annotations

import importlib

from stylert.core.errors import InputError, shown
from stylert.core.machine.devices import find_gpus
from stylert.runtime.backends.base import Backend

#: The module of each backend. The first is the default.
BACKENDS = {
    "onnxruntime": "stylert.runtime.backends.onnxruntime",
    "onnxruntime-cuda": "stylert.runtime.backends.onnxruntime_cuda",
    "openvino": "stylert.runtime.backends.openvino",
    "mnn": "stylert.runtime.backends.mnn",
    "tensorrt": "stylert.runtime.backends.tensorrt",
    "tensorrt-rtx": "stylert.runtime.backends.tensorrt_rtx",
    "torch": "stylert.runtime.backends.torch",
}


def backend(name: str) -> Backend:
    """The backend of a name. Raises InputError for an unknown name."""
    if not isinstance(name, str) or name not in BACKENDS:
        raise InputError(f"unknown backend {shown(name)}: choose one of {', '.join(BACKENDS)}")
    instance: Backend = importlib.import_module(BACKENDS[name]).BACKEND
    return instance


def available_backends() -> list[str]:
    """Names of the backends that can run on this machine: the library is installed and its device is present.

    PyTorch is listed only where there is a GPU. On a CPU it is the slow reference, for callers that name it.
    """
    has_gpu = not find_gpus().problem
    runnable = [name for name in BACKENDS if backend(name).unavailable_reason() is None]
    return [name for name in runnable if has_gpu or not backend(name).facts.only_by_name_on_cpu]
