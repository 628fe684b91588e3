"""The interface of a backend: a library that runs a bundle's networks and may build engines of them.

To add a backend:

1. Write a module in this folder with a subclass of `Backend` and one instance of it, `BACKEND`. Import the library
   inside functions only, so that listing the backends does not load it.
2. Fill in `BackendFacts`, and write `available`, `version` and `load`, which returns a `Session`.
3. If it builds engines, set `engine_suffix` and write `target`, `machine`, `flags`, `build` and `load_engine`.
4. Add the module to `BACKENDS` in `__init__.py`, and the library as an extra to `pyproject.toml`.
5. Run `tests/runtime/backends/test_interface.py` and `tests/runtime/test_generator.py`, which test every backend.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylert.core.errors import BackendError, InputError, shown_line
from stylert.core.progress import Progress
from stylert.runtime.build_options import LATENCY, BuildOptions, check_threads
from stylert.runtime.network_kinds import STYLEGAN2, NetworkKind
from stylert.runtime.session import Session


@dataclass(frozen=True)
class BackendFacts:
    """Facts about a backend that are known without its library.

    Attributes:
        name: The name in the API and on the command line.
        library: The library's name for people.
        install: The shell command that installs the library.
        precisions: The precisions that it runs.
        networks: The kinds of network that it is known to compute exactly. A backend that was not tried with a kind lacks it.
        hints: The performance hints that it follows.
        engine_suffix: The suffix of its engines, or None if it builds none.
        needs_engine: Whether it runs built engines only, never the bundle's ONNX files.
        companion_files: Names of the files that an engine may have beside its main file.
        deferred_files: Names of those companion files that `load_engine` itself verifies, when it first reads them.
        only_by_name_on_cpu: Whether a machine without a GPU uses it only if the caller names it.
        stages: Whether its sessions are `StageSession`s, and so run networks in stages (`runtime/incremental`).
    """

    name: str
    library: str
    install: str
    precisions: tuple[str, ...]
    networks: tuple[NetworkKind, ...] = (STYLEGAN2,)
    hints: tuple[str, ...] = (LATENCY,)
    engine_suffix: str | None = None
    needs_engine: bool = False
    companion_files: tuple[str, ...] = ()
    deferred_files: tuple[str, ...] = ()
    only_by_name_on_cpu: bool = False
    stages: bool = False

    def runs(self, kind: NetworkKind, precision: str) -> bool:
        """Whether it runs this precision of a kind of network."""
        return kind in self.networks and precision in self.precisions


@dataclass(frozen=True)
class LoadOptions:
    """How to load a network.

    Attributes:
        precision: The network's precision.
        threads: The number of CPU threads; None leaves it to the library.
        hint: The performance hint, one of `BackendFacts.hints`.
        in_turn: Whether the network is one of several that run in turn. Its threads then rest while another one runs, and its
            file is not read again after `Backend.load`.

    Raises:
        InputError: There are too many threads for this machine.
    """

    precision: str
    threads: int | None = None
    hint: str = LATENCY
    in_turn: bool = False

    def __post_init__(self) -> None:
        check_threads(self.threads)


@dataclass(frozen=True)
class BuiltEngine:
    """An engine of a bundle, ready to load.

    Attributes:
        file: The engine's main file. Its bytes are verified.
        verify: Takes the path and the bytes of a deferred file. Raises BundleError if they are not those of the build.
        version_compatible: Whether it was built to run on later versions of the library.
        weights: The ONNX network with the weights of a stripped engine; None if the engine holds its weights.
        sha256: That of the main file.
    """

    file: Path
    verify: Callable[[Path, memoryview], None]
    version_compatible: bool = False
    weights: Path | None = None
    sha256: str | None = None


class Backend(ABC):
    """A library that runs a bundle's networks.

    `load_engine` and the methods below it are for backends that build engines. Other backends leave them out.
    """

    @property
    @abstractmethod
    def facts(self) -> BackendFacts:
        """The facts that are known without the library."""

    @property
    def name(self) -> str:
        return self.facts.name

    @abstractmethod
    def available(self) -> bool:
        """Whether the library is installed. This does not import it."""

    def unavailable_reason(self) -> str | None:
        """Why the backend cannot run on this machine, in one line; None if it can."""
        return None if self.available() else str(self.missing_library())

    @abstractmethod
    def version(self) -> str:
        """The version of the installed library.

        Raises:
            BackendError: The library is missing, cannot be imported or is too old.
        """

    def load(self, network: Path, options: LoadOptions) -> Session:
        """Load an ONNX file.

        Raises:
            BackendError: The library or its device is missing, or there is too little memory.
            BundleError: The library refuses the file.
        """
        raise BackendError(f"{self.name} runs built engines only: stylert build BUNDLE --backend {self.name}")

    def load_engine(self, engine: BuiltEngine, options: LoadOptions) -> Session:
        """Load a built engine. Raises as `load`."""
        raise self.no_engines()

    def targets(self) -> list[str]:
        """Architectures that it builds for on any machine, such as `sm_89`; empty if it builds for this machine only."""
        return []

    def target(self, options: BuildOptions) -> str:
        """The device that an engine with these options is for: `cpu`, or an architecture such as `sm_89`.

        Raises:
            BackendError: The engine is for the GPU of this machine, which has none.
            InputError: The backend does not build for this target.
        """
        raise self.no_engines()

    def machine(self, options: BuildOptions) -> str:
        """The one model of processor or GPU that an engine is for; empty if every device of its target runs it."""
        raise self.no_engines()

    def flags(self, precision: str, options: BuildOptions) -> dict[str, Any]:
        """All other options on which the content of an engine depends, as JSON values.

        Raises:
            InputError: The backend does not have one of these options.
        """
        raise self.no_engines()

    def build(self, network: Path, precision: str, engine: Path, options: BuildOptions, progress: Progress) -> dict[str, Any]:
        """Build an engine of an ONNX file.

        Args:
            network: The ONNX file.
            precision: The network's precision.
            engine: The main file to write. Any other files go into its folder, which is empty.
            options: Options of the build.
            progress: Gets the stage and how much of it is done.

        Returns:
            Facts for `engine.json`, as JSON values.

        Raises:
            BackendError: The library cannot build this network.
            BundleError: The library cannot read the file.
        """
        raise self.no_engines()

    def missing_library(self) -> BackendError:
        """The error for a library that is not installed. It names the command that installs it."""
        return BackendError(f"this needs {self.facts.library}: {self.facts.install}")

    def no_engines(self) -> InputError:
        """The error for building or loading an engine of a backend that has none."""
        return InputError(f"{self.name} has no engines to build: it runs the bundle's ONNX files")


#: The start of ONNX Runtime's message for a failed call of a library of CUDA
LIBRARY_FAILURE = re.compile(r"\b(CUDA|CUBLAS|CUDNN) failure ([0-9]+)")
#: The numbers that mean too little memory: cudaErrorMemoryAllocation, CUBLAS_STATUS_ALLOC_FAILED, and of cuDNN the status of
#: version 8, then those of version 9 for memory of the host and of the device
NO_MEMORY = {"CUDA": (2,), "CUBLAS": (3,), "CUDNN": (2, 4003, 4004)}


def is_out_of_memory(error: Exception) -> bool:
    """Whether a library's exception means that an allocation failed. The libraries have no type of their own for it.

    The message of a failed call of CUDA quotes source lines, in which any word may stand. So its number decides.
    """
    failure = LIBRARY_FAILURE.search(str(error))
    if failure is not None:
        return int(failure[2]) in NO_MEMORY[failure[1]]
    return isinstance(error, MemoryError) or "alloc" in str(error).lower()


def reason(error: Exception, last: bool = False) -> str:
    """The first line of a library's message, or the last, in printable characters: it may quote the file's own text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown_line(lines[-1 if last else 0]) if lines else type(error).__name__
