"""The build scenario: how long a backend takes to build an engine. It leaves the bundle's own engines as they are."""

from __future__ import annotations

import os
from dataclasses import dataclass

from stylert.benchmarks.machine.interference import Interference, watch
from stylert.benchmarks.scenarios.measure import Configuration
from stylert.core.files.temporary import temporary_folder
from stylert.core.machine.host import peak_memory_mib
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.bundle import MANIFEST, Bundle
from stylert.runtime.engines import build_engine


@dataclass(frozen=True)
class Build:
    """Measurements of one build.

    Attributes:
        seconds: Time from the ONNX file to the finished engine.
        bytes: Size of the engine.
        version: Version of the backend.
        peak_memory_mib: Peak memory of the process, in MiB.
        interference: Activity of the machine during the build.
    """

    seconds: float
    bytes: int
    version: str
    peak_memory_mib: float
    interference: Interference


def measure_build(configuration: Configuration) -> Build:
    """Build one engine in this process, in a temporary folder. Raises as `build_engine`."""
    source = Bundle.load(configuration.bundle)
    with temporary_folder("build") as temporary:
        folder = temporary / "bundle"  # which a build locks for a moment; the temporary folder is locked all the time
        folder.mkdir()
        for name in (MANIFEST, *source.files):
            os.symlink((source.path / name).absolute(), folder / name)
        with watch() as watched:
            options = BuildOptions(threads=configuration.threads)
            facts = build_engine(Bundle.load(folder), configuration.backend, configuration.precision, options)
    assert watched.interference is not None
    return Build(facts["build_seconds"], facts["bytes"], facts["key"]["version"], peak_memory_mib(), watched.interference)
