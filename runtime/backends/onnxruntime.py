"""ONNX Runtime on the CPU: the default backend, which every installation has."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from stylert.core.errors import BackendError, BundleError, OutOfMemory, OutputError
from stylert.core.machine.byte_products import byte_pairs_saturate
from stylert.core.machine.host import cpu_identity
from stylert.core.machine.processor_class import processor_class
from stylert.core.progress import Progress
from stylert.core.standard_streams import plain_stderr
from stylert.runtime.backends.base import Backend, BackendFacts, BuiltEngine, LoadOptions, is_out_of_memory, reason
from stylert.runtime.batching import ANY_BATCH
from stylert.runtime.build_options import BuildOptions, refuse_gpu_options
from stylert.runtime.layer_forms import RULES, layer_forms
from stylert.runtime.network_files import check_network, check_network_file
from stylert.runtime.network_kinds import STYLEGAN1, STYLEGAN2, STYLEGAN3
from stylert.runtime.own_engines import is_own_engine
from stylert.runtime.session import HostInputs, TensorSpec, closed_shape

#: The weights of an engine. Loading maps this file into memory instead of reading it.
WEIGHTS_FILE = "weights.bin"
MIN_WEIGHT_BYTES = 1024
#: The precision whose layers get the forms of the processor's class. Other precisions have their forms in the file.
FORMS_PRECISION = "fp32"
#: The variable that ONNX Runtime reads when it is imported. With it, it writes nothing into the home folder and sends nothing.
TELEMETRY_OFF = "ORT_DISABLE_TELEMETRY"
#: The option by which 8-bit weights become unsigned. Products of two unsigned bytes are added in 32 bits on every processor.
UNSIGNED_WEIGHTS = "session.x64quantprecision"
#: The option by which a session's threads stop looking for work as soon as a call ends
STOP_SPINNING = "session.force_spinning_stop"
DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(uint8)": np.dtype(np.uint8),
}


class OnnxRuntime(Backend):
    """Engines are networks that ONNX Runtime has already optimised for this CPU."""

    facts = BackendFacts(
        name="onnxruntime",
        library="ONNX Runtime",
        install="pip install stylert",
        # fp8 is for verification only: ONNX Runtime computes it in float32 between the roundings.
        precisions=("fp32", "fp16", "int8", "fp8"),
        networks=(STYLEGAN1, STYLEGAN2, STYLEGAN3),
        engine_suffix=".onnx",
        companion_files=(WEIGHTS_FILE,),
        stages=True,
    )

    def available(self) -> bool:
        return True

    def version(self) -> str:
        return str(library().__version__)

    def load(self, network: Path, options: LoadOptions) -> OrtSession:
        content, _ = _checked(network, options.precision)
        own_options = session_options(options.threads)
        if options.in_turn:
            own_options.add_session_config_entry(STOP_SPINNING, "1")
        return OrtSession(open_session(network, own_options, content=content))

    def load_engine(self, engine: BuiltEngine, options: LoadOptions) -> OrtSession:
        if engine.sha256 is None or not is_own_engine(engine.sha256):
            check_network_file(engine.file, (WEIGHTS_FILE,))
        own_options = session_options(options.threads)
        own_options.graph_optimization_level = library().GraphOptimizationLevel.ORT_DISABLE_ALL
        return OrtSession(open_session(engine.file, own_options))

    def target(self, options: BuildOptions) -> str:
        refuse_gpu_options(self.name, options)
        return "cpu"

    def machine(self, options: BuildOptions) -> str:
        return cpu_identity()

    def flags(self, precision: str, options: BuildOptions) -> dict[str, Any]:
        flags: dict[str, Any] = {"threads": options.threads}
        if precision == "int8" and byte_pairs_saturate():
            flags["unsigned_weights"] = True
        if precision == FORMS_PRECISION:
            flags["forms"] = RULES[processor_class()].name
        return flags

    def build(self, network: Path, precision: str, engine: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
        """Write the network as optimised for this CPU: fused operators, folded constants, blocked layouts."""
        content, forms = _checked(network, precision)
        own_options = session_options(options.threads)
        own_options.optimized_model_filepath = str(engine)
        prefix = "session.optimized_model_external_initializers_"
        own_options.add_session_config_entry(f"{prefix}file_name", WEIGHTS_FILE)
        own_options.add_session_config_entry(f"{prefix}min_size_in_bytes", str(MIN_WEIGHT_BYTES))
        open_session(network, own_options, content=content)
        return {"forms": forms} if forms else {}


def _checked(network: Path, precision: str | None) -> tuple[bytes | None, dict[str, Any]]:
    """Check a network. The result is that of `layer_forms`, or nothing for other precisions than float32."""
    if precision != FORMS_PRECISION:
        check_network(network)
        return None, {}
    check_network_file(network)
    return layer_forms(network)  # checks the nodes, too


def library() -> Any:
    """The module `onnxruntime`. All of stylert imports it here, because its telemetry is switched off before it is imported.

    A user who wants the telemetry sets the environment variable `ORT_DISABLE_TELEMETRY` to 0.
    """
    os.environ.setdefault(TELEMETRY_OFF, "1")
    # ONNX Runtime colors its warnings also in files. While it is imported, none of its settings is read yet.
    with plain_stderr() if "onnxruntime" not in sys.modules else nullcontext():
        import onnxruntime

    return onnxruntime


def quantization() -> Any:
    """The module `onnxruntime.quantization`, imported as `library`."""
    library()
    from onnxruntime import quantization

    return quantization


class OrtSession:
    """A `Session` of ONNX Runtime on the CPU."""

    device = "cpu"
    ranges = ANY_BATCH
    concurrency = 1
    notes: tuple[str, ...] = ()

    def __init__(self, session: Any) -> None:
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]
        self.tensors = session_tensors(session)

    def run(self, inputs: HostInputs) -> np.ndarray:
        return self._run(self._outputs[:1], inputs)[0]

    def run_stage(self, inputs: HostInputs) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._run(self._outputs, inputs), strict=True))

    def _run(self, outputs: list[str], inputs: HostInputs) -> list[np.ndarray]:
        try:
            values: list[np.ndarray] = self._session.run(outputs, dict(inputs))
        except Exception as e:  # ONNX Runtime's exceptions share no public base class
            if is_out_of_memory(e):
                raise OutOfMemory("ONNX Runtime: not enough memory for this batch") from None
            raise BackendError(f"ONNX Runtime cannot run this network: {reason(e)}") from e
        return values

    def close(self) -> None:
        self._session = None


def session_options(threads: int | None) -> Any:
    """ONNX Runtime's `SessionOptions` for a number of threads, with a quiet log and exact products of bytes."""
    options = library().SessionOptions()
    options.log_severity_level = 4  # each error is an exception, too
    if byte_pairs_saturate():  # elsewhere unsigned weights would only be slower
        options.add_session_config_entry(UNSIGNED_WEIGHTS, "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_session(
    file: Path, options: Any, providers: Sequence[Any] = ("CPUExecutionProvider",), content: bytes | None = None
) -> Any:
    """ONNX Runtime's `InferenceSession` of a file, or of `content`, which was made from the file.

    Raises:
        BackendError: There is too little memory.
        BundleError: ONNX Runtime refuses the file.
        OutputError: The optimised network cannot be written.
    """
    try:
        # Without fallback: it prints a banner and tries the same once more.
        return library().InferenceSession(
            file if content is None else content, options, providers=list(providers), enable_fallback=False
        )
    except Exception as e:  # ONNX Runtime's exceptions share no public base class
        if isinstance(e, MemoryError) or "bad_alloc" in str(e):
            raise BackendError(f"not enough memory to load {file}") from None
        # On a full disk ONNX Runtime's message blames the network.
        if "serialization failed" in str(e) or "Failed to write" in str(e):
            raise OutputError(f"cannot write {options.optimized_model_filepath}: is the disk full?") from None
        raise BundleError(f"ONNX Runtime cannot load {file}: {reason(e)}") from None


def session_tensors(session: Any) -> list[TensorSpec]:
    """The inputs and outputs of ONNX Runtime's session. A type that no network of ours has becomes `object`."""
    return [
        TensorSpec(value.name, is_input, DTYPES.get(value.type, np.dtype(object)), closed_shape(value.shape))
        for values, is_input in ((session.get_inputs(), True), (session.get_outputs(), False))
        for value in values
    ]


BACKEND = OnnxRuntime()
