"""Writes a bundle as a model repository of Triton Inference Server.

| backend | models |
|---|---|
| `onnxruntime`, `openvino` | `NAME_mapping` and `NAME_synthesis`, and `NAME`, an ensemble of both: z and psi to image and ws |
| `python` | `NAME`: seeds to images, by `Generator` in Triton's Python backend, which needs stylert in Triton's Python |

The mapping network runs on ONNX Runtime, as in `Generator`, or on OpenVINO with the synthesis network.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, InputError, shown
from stylert.core.files.marks import marked_directory
from stylert.core.ranges import check_ranges
from stylert.runtime.bundle import MANIFEST, MAPPING_FILE, Bundle
from stylert.runtime.session import TensorSpec

BACKENDS = ("onnxruntime", "openvino", "python")
#: The file of the Python backend. It is no module of stylert, since only Triton has what it imports.
PYTHON_MODEL = Path(__file__).parent / "triton" / "model.py"
#: Written into each repository, so that a later run knows the folder as its own.
MARK = "stylert-repository.json"
RANGES: dict[str, tuple[float, float]] = {
    "max_batch": (1, 1024),
    "max_delay_ms": (0, 10_000),
    "instances": (1, 64),
    "threads": (1, 1024),
}


@dataclass(frozen=True, kw_only=True)
class TritonOptions:
    """How Triton runs the models.

    Attributes:
        name: Name of the model that clients call.
        backend: One of `BACKENDS`.
        precision: The precision of the synthesis network; None for fp32, or the first that the bundle has.
        generator_backend: For `python`, the backend of `Generator`.
        max_batch: Images in one call.
        max_delay_ms: How long a request may wait for others to fill its batch.
        instances: Copies of each network that run at the same time.
        threads: CPU threads of each copy; None leaves the number to the library.
        cache: Whether Triton keeps answers. The server then needs `--cache-config`.

    Raises:
        InputError: A value is out of range.
    """

    name: str
    backend: str = "onnxruntime"
    precision: str | None = None
    generator_backend: str = "onnxruntime"
    max_batch: int = 8
    max_delay_ms: float = 0.0
    instances: int = 1
    threads: int | None = None
    cache: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise InputError(f"a model of Triton has a name of letters, digits, - and _, not {shown(self.name)}: use --name")
        if self.backend not in BACKENDS:
            raise InputError(f"a backend of Triton is one of {', '.join(BACKENDS)}, not {shown(self.backend)}")
        try:
            check_ranges(self, RANGES)
        except ValueError as e:
            raise InputError(str(e)) from None


def write_repository(bundle: Bundle, out: str | Path, options: TritonOptions) -> list[str]:
    """Write the model repository. It replaces one that was written before, and no other folder.

    Args:
        bundle: The bundle. Its files are copied, and their hashes checked.
        out: The folder of the repository.
        options: How Triton runs the models.

    Returns:
        The names of the models.

    Raises:
        InputError: The bundle lacks the precision.
        BackendError: The bundle takes noise as inputs.
        BundleError: A file of the bundle is damaged.
        OutputError: The folder cannot be written, or holds other files.
    """
    if bundle.noise == "input":
        raise BackendError(f"bundle {bundle.path} takes noise as inputs; deploy one that is exported with --noise const")
    precision = options.precision or bundle.default_precision
    models = _python_model(bundle, precision, options) if options.backend == "python" else _networks(bundle, precision, options)
    with marked_directory(out, MARK, [bundle.path]) as folder:
        for name, model in models.items():
            version = folder / name / "1"
            version.mkdir(parents=True)  # an ensemble has no files, and still needs its folder
            (folder / name / "config.pbtxt").write_text(message_text({"name": name, **model.config}))
            for target, source in model.files.items():
                (version / target).parent.mkdir(exist_ok=True)
                shutil.copyfile(source, version / target)
    return list(models)


@dataclass(frozen=True)
class _Model:
    """A model of the repository: its configuration, and the files of its version by their names in it."""

    config: Mapping[str, Any]
    files: Mapping[str, Path]


class Name(str):
    """A name of an enumeration in a message, which has no quotes."""


def message_text(fields: Mapping[str, Any], indent: str = "") -> str:
    """A protobuf message in its text format. A sequence is a repeated field, and a mapping a message."""
    lines: list[str] = []
    for name, value in fields.items():
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, Mapping):
                lines.append(f"{indent}{name} {{\n{message_text(each, indent + '  ')}{indent}}}\n")
            elif isinstance(each, bool):
                lines.append(f"{indent}{name}: {str(each).lower()}\n")
            elif isinstance(each, str) and not isinstance(each, Name):
                lines.append(f"{indent}{name}: {json.dumps(each)}\n")
            else:
                lines.append(f"{indent}{name}: {each}\n")
    return "".join(lines)


def _networks(bundle: Bundle, precision: str, options: TritonOptions) -> dict[str, _Model]:
    """Mapping, synthesis, and the ensemble of both."""
    mapping, synthesis = f"{options.name}_mapping", f"{options.name}_synthesis"
    source = bundle.checked_file(bundle.network(precision, options.backend))
    inputs = [tensor for tensor in bundle.mapping_tensors if tensor.is_input]
    ws = next(tensor for tensor in bundle.mapping_tensors if not tensor.is_input)
    image = next(tensor for tensor in bundle.synthesis_tensors if not tensor.is_input)
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
    return {
        mapping: _Model(_network(inputs, [ws], options), {"model.onnx": bundle.checked_file(MAPPING_FILE)}),
        synthesis: _Model(_network([ws], [image], options), {"model.onnx": source}),
        options.name: _Model(ensemble, {}),
    }


def _network(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], options: TritonOptions) -> dict[str, Any]:
    backend: dict[str, Any] = {"backend": options.backend, "default_model_filename": "model.onnx"}
    threads: dict[str, str] = {}
    if options.threads is not None:
        name = "intra_op_thread_count" if options.backend == "onnxruntime" else "INFERENCE_NUM_THREADS"
        threads[name] = str(options.threads)
    return {
        **backend,
        "max_batch_size": options.max_batch,
        "input": [_tensor(tensor) for tensor in inputs],
        "output": [_tensor(tensor) for tensor in outputs],
        **_scheduling(options, inputs),
        **_parameters(threads),
    }


def _python_model(bundle: Bundle, precision: str, options: TritonOptions) -> dict[str, _Model]:
    """Seeds to images, with the bundle beside the model."""
    bundle.precision(precision)  # refuses one that is not there
    parameters = {"backend": options.generator_backend, "precision": precision}
    parameters |= {} if options.threads is None else {"threads": str(options.threads)}
    seed, psi = TensorSpec("seed", True, np.dtype(np.int64), (1,)), TensorSpec("psi", True, np.dtype(np.float32), (1,))
    label = [TensorSpec("label", True, np.dtype(np.int32), (1,))] if bundle.model["c_dim"] else []
    side, channels = bundle.resolution, bundle.model["img_channels"]
    image = TensorSpec("image", False, np.dtype(np.uint8), (side, side, channels))
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
    return {options.name: _Model(config, {"model.py": PYTHON_MODEL, **files})}


def _scheduling(options: TritonOptions, inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Batches, copies, the calls before the first request, and the cache."""
    warm = {
        tensor.name: {"data_type": _tensor(tensor)["data_type"], "dims": list(tensor.shape), "zero_data": True}
        for tensor in inputs
    }
    batches = sorted({1, options.max_batch})
    return {
        "dynamic_batching": {"max_queue_delay_microseconds": int(1000 * options.max_delay_ms)},
        "instance_group": [{"count": options.instances, "kind": Name("KIND_CPU")}],
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
