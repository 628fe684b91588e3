"""The files that a backend of Triton opens, made of the files of a bundle.

Triton opens a file as it is. `stylert` opens the same file with options that Triton's backends do not have, and these files make up
for them:

- ONNX Runtime gets unsigned weights where products of bytes saturate.
- OpenVINO gets plain operators, and float32 weights where products of bytes saturate.
- TensorRT gets an engine that was built before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stylert.core.errors import BackendError, InputError, shown
from stylert.core.files.temporary import temporary_folder
from stylert.core.machine.byte_products import byte_pairs_saturate
from stylert.runtime.backends.openvino_products import make_products_exact
from stylert.runtime.batching import BatchRange
from stylert.runtime.bundle import NO_VNNI, Bundle
from stylert.runtime.engines import source_file, verified_engine
from stylert.runtime.loading import bundle_engines
from stylert.runtime.lowering import lower
from stylert.runtime.network_files import checked_model
from stylert.runtime.serving.triton.options import TritonOptions
from stylert.runtime.unsigned_weights import make_unsigned

#: The kinds of layers that some processor without VNNI does not compute exactly in OpenVINO.
EVERY_INEXACT = "pairs, transposed"


@dataclass(frozen=True)
class TensorRtPlan:
    """An engine of TensorRT.

    Attributes:
        file: The engine.
        version: The version of TensorRT that built it.
        target: The architecture of its GPU, such as `sm_90`.
        ranges: Least, best and largest batch of each optimisation profile.
        version_compatible: Whether later versions of TensorRT run it, too.
    """

    file: Path
    version: str
    target: str
    ranges: tuple[BatchRange, ...]
    version_compatible: bool


def onnxruntime_network(bundle: Bundle, precision: str, vnni: bool | None) -> Path | bytes:
    """The synthesis network for ONNX Runtime: a file of the bundle, or the content of another one.

    Args:
        bundle: The bundle.
        precision: The precision.
        vnni: As in `TritonOptions`.

    Raises:
        InputError: The bundle lacks the precision.
        BundleError: The file is damaged.
    """
    file = bundle.checked_file(bundle.network(precision, "onnxruntime"))
    if precision != "int8" or _is_exact(vnni):
        return file
    model = checked_model(file)
    make_unsigned(model)
    content: bytes = model.SerializeToString()
    return content


def openvino_network(bundle: Bundle, precision: str, vnni: bool | None) -> bytes:
    """The synthesis network for OpenVINO, as the content of an ONNX file. Arguments and errors are those of `onnxruntime_network`.

    Raises:
        BackendError: onnxscript, which writes plain operators, is not installed.
    """
    entry, saturates = bundle.precision(precision), precision == "int8" and not _is_exact(vnni)
    plans = [entry.plans.get("openvino"), entry.plans.get(f"openvino{NO_VNNI}") if saturates else None]
    file = bundle.checked_file(next((plan for plan in reversed(plans) if plan is not None), entry.file))
    with temporary_folder("triton") as folder:
        rewrite = (lambda model: make_products_exact(model, EVERY_INEXACT)) if saturates else None
        return lower(file, folder / "network.onnx", rewrite=rewrite).read_bytes()


def tensorrt_plan(bundle: Bundle, precision: str, options: TritonOptions) -> TensorRtPlan:
    """The engine of TensorRT that Triton opens.

    Raises:
        InputError: The bundle has no such engine, or several and the options name none; or the engine does not take every batch
            up to that of the options.
        BackendError: The engine has no weights.
        BundleError: The engine is damaged.
    """
    bundle.precision(precision)  # refuses one that is not there
    found = {
        folder.name: record
        for record, folder in bundle_engines(bundle, "tensorrt")
        if (record.key.backend, record.key.precision) == ("tensorrt", precision)
        and record.key.source_sha256 == _source_digest(bundle, precision, record.flags.plugins)
    }
    if not found:
        advice = f"build one on the server's GPU: stylert build {bundle.path} --backend tensorrt --precision {precision}"
        raise InputError(f"{bundle.path} has no {precision} engine of tensorrt; {advice}")
    name = options.engine or next(iter(found))
    if name not in found or (options.engine is None and len(found) > 1):
        given = "" if options.engine is None else f", not {shown(options.engine)}"
        raise InputError(f"choose an engine of {bundle.path} by --engine: {', '.join(found)}{given}")
    record = found[name]
    if record.flags.stripped:
        raise BackendError(f"engine {name} has no weights, and Triton cannot give it any; build one without --stripped")
    ranges = tuple(record.flags.batch)
    for batch in range(1, options.max_batch + 1):
        if not any(least <= batch <= most for least, _, most in ranges):
            text = ", ".join(f"{least} to {most}" for least, _, most in ranges)
            raise InputError(
                f"engine {name} takes batches of {text}, and Triton gives it 1 to {options.max_batch}: see --max-batch"
            )
    file = verified_engine(bundle.path / "engines" / name, "tensorrt")
    return TensorRtPlan(file, record.key.version, record.key.target, ranges, record.flags.version_compatible)


def _source_digest(bundle: Bundle, precision: str, plugins: bool) -> str:
    return bundle.files[source_file(bundle, "tensorrt", precision, plugins)].sha256


def _is_exact(vnni: bool | None) -> bool:
    """Whether products of bytes are exact on the server."""
    return not byte_pairs_saturate() if vnni is None else vnni
