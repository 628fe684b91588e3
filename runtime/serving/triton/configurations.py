"""The models of a repository: the configuration and the files of each.

| backend | models |
|---|---|
| `onnxruntime`, `openvino`, `tensorrt` | `NAME_mapping`, `NAME_synthesis`, and `NAME`, an ensemble of both: z and psi to image and ws |
| `python` | `NAME`: seeds to images, by `Generator` in Triton's Python backend, which needs stylert in Triton's Python |

The mapping network runs on ONNX Runtime in all of them, as in `Generator`. Every pixel depends on it, and OpenVINO would compute it in
bfloat16 where the processor can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylert.runtime.bundle import MANIFEST, Bundle
from stylert.runtime.bundle_manifest import MAPPING_FILE
from stylert.runtime.serving.triton.network_files import onnxruntime_network, openvino_network, tensorrt_plan
from stylert.runtime.serving.triton.options import TritonOptions
from stylert.runtime.serving.triton.protobuf_text import Name
from stylert.runtime.session import TensorSpec

#: The file of the Python backend. It is no module of stylert, since only Triton has what it imports.
PYTHON_MODEL = Path(__file__).parent / "python_backend" / "model.py"
ON_CPU, ON_GPU = Name("KIND_CPU"), Name("KIND_GPU")


@dataclass(frozen=True)
class TritonModel:
    """A model of the repository.

    Attributes:
        config: Its configuration, without its name.
        files: The files of its version by their names in it: a file to copy, or the content.
        server_options: Options that the server needs for it.
    """

    config: Mapping[str, Any]
    files: Mapping[str, Path | bytes]
    server_options: tuple[str, ...] = ()


def models_of(bundle: Bundle, precision: str, options: TritonOptions) -> dict[str, TritonModel]:
    """The models of a bundle by their names, the one that clients call last.

    Raises:
        StylertError: As `write_repository`.
    """
    if options.backend == "python":
        return {options.name: _python_model(bundle, precision, options)}
    inputs = [tensor for tensor in bundle.mapping_tensors if tensor.is_input]
    ws = next(tensor for tensor in bundle.mapping_tensors if not tensor.is_input)
    image = next(tensor for tensor in bundle.synthesis_tensors if not tensor.is_input)
    mapping, synthesis = f"{options.name}_mapping", f"{options.name}_synthesis"
    steps = [
        _step(mapping, [tensor.name for tensor in inputs], [ws.name]),
        _step(synthesis, [ws.name], [image.name]),
    ]
    ensemble = {
        "platform": "ensemble",
        "max_batch_size": options.max_batch,
        "input": [_tensor(tensor) for tensor in inputs],
        "output": [_tensor(image), _tensor(ws)],
        "ensemble_scheduling": {"step": steps},
    }
    mapping_file = bundle.checked_file(MAPPING_FILE)
    network = {"onnxruntime": _onnxruntime, "openvino": _openvino, "tensorrt": _tensorrt}[options.backend]
    return {
        mapping: TritonModel(_network(inputs, [ws], options, _onnxruntime_facts(options)), {"model.onnx": mapping_file}),
        synthesis: network(bundle, precision, options, ws, image),
        options.name: TritonModel(ensemble, {}),
    }


def _onnxruntime(bundle: Bundle, precision: str, options: TritonOptions, ws: TensorSpec, image: TensorSpec) -> TritonModel:
    file = onnxruntime_network(bundle, precision, options.vnni)
    return TritonModel(_network([ws], [image], options, _onnxruntime_facts(options)), {"model.onnx": file})


def _onnxruntime_facts(options: TritonOptions) -> dict[str, Any]:
    threads = {} if options.threads is None else {"intra_op_thread_count": str(options.threads)}
    return {"backend": "onnxruntime", "default_model_filename": "model.onnx", **_parameters(threads)}


def _openvino(bundle: Bundle, precision: str, options: TritonOptions, ws: TensorSpec, image: TensorSpec) -> TritonModel:
    """Triton fixes the batch of OpenVINO's networks to the largest, and refuses smaller ones unless it may fill them up.

    All copies share one compiled network, so its threads are those of all copies, and each copy needs a stream of its own.
    """
    parameters = {"ENABLE_BATCH_PADDING": "YES", "NUM_STREAMS": str(options.instances)}
    if options.threads is not None:
        parameters["INFERENCE_NUM_THREADS"] = str(options.threads * options.instances)
    facts = {"backend": "openvino", "default_model_filename": "model.onnx", **_parameters(parameters)}
    content = openvino_network(bundle, precision, options.vnni)
    return TritonModel(_network([ws], [image], options, facts), {"model.onnx": content})


def _tensorrt(bundle: Bundle, precision: str, options: TritonOptions, ws: TensorSpec, image: TensorSpec) -> TritonModel:
    plan = tensorrt_plan(bundle, precision, options)
    facts = {"backend": "tensorrt", "default_model_filename": "model.plan"}
    profiles = [str(index) for index in range(len(plan.ranges))] if len(plan.ranges) > 1 else []
    config = _network([ws], [image], options, facts, ON_GPU, profiles)
    server_options = ("--backend-config=tensorrt,version-compatible=true",) if plan.version_compatible else ()
    return TritonModel(config, {"model.plan": plan.file}, server_options)


def _network(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    options: TritonOptions,
    facts: Mapping[str, Any],
    kind: Name = ON_CPU,
    profiles: Sequence[str] = (),
) -> dict[str, Any]:
    return {
        **facts,
        "max_batch_size": options.max_batch,
        "input": [_tensor(tensor) for tensor in inputs],
        "output": [_tensor(tensor) for tensor in outputs],
        **_scheduling(options, inputs, kind, profiles),
    }


def _python_model(bundle: Bundle, precision: str, options: TritonOptions) -> TritonModel:
    """Seeds to images, with the bundle beside the model."""
    bundle.precision(precision)  # refuses one that is not there
    parameters = {"backend": options.generator_backend, "precision": precision}
    parameters |= {} if options.threads is None else {"threads": str(options.threads)}
    seed, psi = TensorSpec("seed", True, np.dtype(np.int64), (1,)), TensorSpec("psi", True, np.dtype(np.float32), (1,))
    label = [TensorSpec("label", True, np.dtype(np.int32), (1,))] if bundle.model["c_dim"] else []
    image = TensorSpec("image", False, np.dtype(np.uint8), (bundle.height, bundle.width, bundle.model["img_channels"]))
    config = {
        "backend": "python",
        "max_batch_size": options.max_batch,
        "input": [_tensor(seed), {**_tensor(psi), "optional": True}, *(_tensor(tensor) for tensor in label)],
        "output": [_tensor(image)],
        **_scheduling(options, [seed, psi, *label]),
        **_parameters(parameters),
    }
    names = [MANIFEST, *bundle.files]
    files = {f"bundle/{name}": bundle.path / name if name == MANIFEST else bundle.checked_file(name) for name in names}
    return TritonModel(config, {"model.py": PYTHON_MODEL, **files})


def _scheduling(
    options: TritonOptions, inputs: Sequence[TensorSpec], kind: Name = ON_CPU, profiles: Sequence[str] = ()
) -> dict[str, Any]:
    """Batches, copies, the calls before the first request, and the cache."""
    warm = {
        tensor.name: {"data_type": _tensor(tensor)["data_type"], "dims": list(tensor.shape), "zero_data": True}
        for tensor in inputs
    }
    batches = sorted({1, options.max_batch})
    return {
        "dynamic_batching": {"max_queue_delay_microseconds": int(1000 * options.max_delay_ms)},
        "instance_group": [{"count": options.instances, "kind": kind, "profile": list(profiles)}],
        "model_warmup": [
            {
                "name": f"batch {batch}",
                "batch_size": batch,
                "inputs": [{"key": name, "value": value} for name, value in warm.items()],
            }
            for batch in batches
        ],
        **({"response_cache": {"enable": True}} if options.cache else {}),
    }


def _parameters(values: Mapping[str, str]) -> dict[str, Any]:
    return {"parameters": [{"key": name, "value": {"string_value": value}} for name, value in values.items()]}


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    kinds = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8", "int64": "TYPE_INT64", "int32": "TYPE_INT32"}
    return {"name": tensor.name, "data_type": Name(kinds[tensor.dtype.name]), "dims": list(tensor.shape)}


def _step(model: str, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, Any]:
    """A step of the ensemble. Its tensors have the names that they have in the networks."""
    return {
        "model_name": model,
        "model_version": -1,
        "input_map": [{"key": name, "value": name} for name in inputs],
        "output_map": [{"key": name, "value": name} for name in outputs],
    }
