"""How Triton Inference Server runs the models of a repository."""

from __future__ import annotations

import re
from dataclasses import dataclass

from stylert.core.errors import InputError, shown
from stylert.runtime.serving.setting_ranges import check_settings

BACKENDS = ("onnxruntime", "openvino", "tensorrt", "python")
OWN_RANGES: dict[str, tuple[float, float]] = {"instances": (1, 64)}


@dataclass(frozen=True, kw_only=True)
class TritonOptions:
    """How Triton runs the models.

    Attributes:
        name: Name of the model that clients call.
        backend: One of `BACKENDS`.
        precision: The precision of the synthesis network; None for fp32, or the first that the bundle has.
        generator_backend: For `python`, the backend of `Generator`.
        engine: For `tensorrt`, the name of the engine's folder in the bundle. None takes the only one of the precision.
        max_batch: Images in one call.
        max_delay_ms: How long a request may wait for others to fill its batch.
        instances: Copies of each network that run at the same time.
        threads: CPU threads of each copy; None leaves the number to the library.
        vnni: Whether the server's processor adds products of bytes in 32 bits, as all do but x86 without VNNI. None: as this
            machine's.
        cache: Whether Triton keeps answers. The server then needs `--cache-config`.

    Raises:
        InputError: A value is out of range.
    """

    name: str
    backend: str = "onnxruntime"
    precision: str | None = None
    generator_backend: str = "onnxruntime"
    engine: str | None = None
    max_batch: int = 8
    max_delay_ms: float = 0.0
    instances: int = 1
    threads: int | None = None
    vnni: bool | None = None
    cache: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise InputError(f"a model of Triton has a name of letters, digits, - and _, not {shown(self.name)}: use --name")
        if self.backend not in BACKENDS:
            raise InputError(f"a backend of Triton is one of {', '.join(BACKENDS)}, not {shown(self.backend)}")
        if self.engine is not None and self.backend != "tensorrt":
            raise InputError(f"an engine is for the backend tensorrt, not {self.backend}")
        check_settings(self, OWN_RANGES)
