"""How long building an engine takes, in a process and a folder of its own: the bundle's own engines stay as they are."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from stylert.benchmarks.machine.facts import peak_memory_mib
from stylert.benchmarks.machine.interference import Disturbance, watch
from stylert.benchmarks.scenarios.measure import Configuration
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.bundle import MANIFEST, Bundle
from stylert.runtime.engines import build_engine


@dataclass(frozen=True)
class Build:
    """One build; seconds from the network's file to the finished engine, and the engine's bytes."""

    seconds: float
    bytes: int
    version: str
    peak_memory_mib: float
    disturbance: Disturbance


def measure_build(configuration: Configuration) -> Build:
    """Build once in this process. Raises as `build_engine`."""
    source = Bundle.load(configuration.bundle)
    with tempfile.TemporaryDirectory(prefix="stylert-build-") as temporary:
        folder = Path(temporary)
        for name in (MANIFEST, *source.files):
            os.symlink((source.path / name).absolute(), folder / name)
        with watch() as watched:
            options = BuildOptions(threads=configuration.threads)
            facts = build_engine(Bundle.load(folder), configuration.backend, configuration.precision, options)
    assert watched.disturbance is not None
    return Build(facts["build_seconds"], facts["bytes"], facts["key"]["version"], peak_memory_mib(), watched.disturbance)
