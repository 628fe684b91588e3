"""`find_gpus` passes on what the CUDA driver says. The driver of these tests is a C library, compiled here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from stylert.core.machine.devices import find_gpus

COMPILER = shutil.which("cc") or shutil.which("gcc")

DRIVER = """
#include <stddef.h>
#include <stdio.h>
int cuDriverGetVersion(int *v) { *v = 13020; return 0; }
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDeviceGet(int *device, int i) { *device = 10 + i; return 0; }
int cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "GPU %d", device); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)device << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? device - 2 : attribute == 76 ? 9 : -1;
    return 0;
}
"""


def driver(folder: Path, init: int, count: int) -> str:
    (folder / "cuda.c").write_text(DRIVER)
    library = folder / f"libfake{init}{count}.so"
    defines = [f"-DINIT={init}", f"-DCOUNT={count}"]
    subprocess.run([str(COMPILER), "-shared", "-fPIC", *defines, "-o", library, folder / "cuda.c"], check=True)
    return str(library)


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
def test_name_memory_and_architecture_of_every_gpu_are_the_drivers(tmp_path: Path) -> None:
    found = find_gpus(driver(tmp_path, init=0, count=2))
    assert (found.cuda_version, found.problem) == ("13.2", None)
    first, second = found.gpus
    assert (first.index, first.name, first.compute_capability, first.memory) == (0, "GPU 10", (8, 9), 10 * 2**30)
    assert (second.index, second.name, second.target) == (1, "GPU 11", "sm_99")


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler")
def test_a_driver_without_a_usable_gpu_is_a_problem_with_a_reason(tmp_path: Path) -> None:
    broken = find_gpus(driver(tmp_path, init=100, count=1))
    assert broken.gpus == ()
    assert "100" in str(broken.problem)
    none = find_gpus(driver(tmp_path, init=0, count=0))
    assert none.gpus == ()
    assert "no GPU" in str(none.problem)


def test_a_missing_driver_is_told(tmp_path: Path) -> None:
    found = find_gpus(str(tmp_path / "libcuda.so.1"))
    assert (found.cuda_version, found.gpus) == (None, ())
    assert found.problem == "no NVIDIA driver is installed"
