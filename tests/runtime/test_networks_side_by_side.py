"""Several networks in one process: they are loaded at the same time, and share the cores."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from stylert.core.machine.host import usable_cores
from stylert.runtime import Bundle, Generator
from stylert.runtime.lowering import lower


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("frequent_switches")
def test_networks_lowered_at_the_same_time_are_those_lowered_alone(bundle: Bundle, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network = bundle.path / bundle.network("int8", "openvino")
    alone = lower(network, tmp_path / "alone.onnx", 1).read_bytes()
    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda i: lower(network, tmp_path / f"{i}.onnx", 1), range(8)))
    assert [file.read_bytes() == alone for file in files] == [True] * 8


@pytest.mark.skipif(sys.platform != "linux", reason="threads and their cores are read from /proc")
@pytest.mark.skipif(usable_cores() < 2, reason="there is one core")
def test_openvino_does_not_put_small_networks_on_the_same_core(bundle: Bundle) -> None:
    """OpenVINO would tie the threads of each of them to the first cores."""
    pytest.importorskip("openvino")
    others = set(threads())
    with (
        Generator.load(bundle, "openvino", "fp32", threads=1) as first,
        Generator.load(bundle, "openvino", "fp32", threads=1) as second,
        ThreadPoolExecutor(2) as pool,
    ):
        running = [pool.submit(lambda g=g: [g([0]) for _ in range(20)]) for g in (first, second)]
        fewest = usable_cores()
        while not all(run.done() for run in running):
            fewest = min(fewest, *(count for name, count in threads().items() if name not in others))
    assert fewest > 1


def threads() -> dict[str, int]:
    """The number of cores on which each thread of this process may run."""
    counts = {}
    for status in Path("/proc/self/task").glob("*/status"):
        with suppress(OSError):  # the thread has ended
            mask = re.search(r"^Cpus_allowed:\s*(\S+)", status.read_text(), re.MULTILINE)
            assert mask is not None
            counts[status.parent.name] = int(mask[1].replace(",", ""), 16).bit_count()
    return counts
