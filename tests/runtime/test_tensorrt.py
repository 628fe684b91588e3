"""The TensorRT backend as far as it goes without its library: what is missing is one line, and what cannot be is refused.

Building and running with TensorRT itself has not been exercised; the builder is the one that `test_tensorrt_rtx.py` runs.
"""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.build_options import BuildOptions
from stylert.runtime.devices import Driver, Gpu
from stylert.runtime.engines import build_engine, engine_key
from stylert.runtime.errors import BackendError, InputError

TENSORRT = backend("tensorrt")


@pytest.fixture
def fake_library(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A module of TensorRT's name that knows its version and nothing else."""
    library = SimpleNamespace(__version__="11.4.0.106", __spec__=SimpleNamespace(name="tensorrt"))
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    return library


def has(monkeypatch: pytest.MonkeyPatch, *gpus: Gpu) -> None:
    driver = Driver("13.0", gpus, None if gpus else "no NVIDIA driver is installed")
    monkeypatch.setattr(TENSORRT, "find_gpus", lambda: driver)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_the_library_building_and_running_name_the_command_that_installs_it(bundle: Bundle) -> None:
    for attempt in (lambda: build_engine(bundle, "tensorrt", "fp32"), lambda: Generator.load(bundle, "tensorrt")):
        with pytest.raises(BackendError, match=r"pip install 'stylert\[tensorrt\]'"):
            attempt()
    assert "tensorrt" not in available_backends()


def test_without_a_gpu_nothing_is_built(bundle: Bundle, fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch)
    with pytest.raises(BackendError, match="no NVIDIA driver"):
        build_engine(bundle, "tensorrt", "fp32")
    assert "no NVIDIA driver" in TENSORRT.obstacle()


def test_an_old_library_is_refused_by_its_version(fake_library: SimpleNamespace) -> None:
    for old in ("8.6.1", "10.14.1.48", "10.3"):
        fake_library.__version__ = old
        with pytest.raises(BackendError, match=r"too old.*10\.15"):
            TENSORRT.version()
    for new in ("10.15.0", "11.4.0.106"):
        fake_library.__version__ = new
        assert TENSORRT.version() == new


def test_a_library_that_does_not_import_is_one_line(fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> object:
            if name == "tensorrt":
                return importlib.util.spec_from_loader(name, Broken)  # type: ignore[arg-type]
            return None

        @staticmethod
        def create_module(spec: object) -> None:
            raise ImportError("libnvinfer.so.11: cannot open\nshared object file")

        @staticmethod
        def exec_module(module: object) -> None: ...

    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    with pytest.raises(BackendError, match="libnvinfer") as e:
        TENSORRT.version()
    assert "\n" not in str(e.value)


def test_an_engine_belongs_to_one_model_of_gpu_unless_it_is_to_be_compatible(
    bundle: Bundle, fake_library: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, Gpu(0, "GPU A", (8, 9), 2**34))
    key = engine_key(bundle, "tensorrt", "int8")
    compatible = engine_key(bundle, "tensorrt", "int8", BuildOptions(hardware_compatible=True))
    assert (key.target, key.machine, compatible.machine) == ("sm_89", "GPU A", "")
    keys = {
        engine_key(bundle, "tensorrt", "int8", BuildOptions(**options)).digest  # type: ignore[arg-type]
        for options in ({}, {"plugins": True}, {"level": 5}, {"version_compatible": True}, {"hardware_compatible": True})
    }
    assert len(keys) == 5
    with pytest.raises(InputError, match="tensorrt-rtx"):
        engine_key(bundle, "tensorrt", "int8", BuildOptions(target="sm_120"))
    has(monkeypatch, Gpu(0, "GPU B", (8, 9), 2**34))
    assert engine_key(bundle, "tensorrt", "int8").digest != key.digest
    assert engine_key(bundle, "tensorrt", "int8", BuildOptions(hardware_compatible=True)) == compatible


def test_plugins_that_cannot_be_registered_are_one_line(fake_library: SimpleNamespace) -> None:
    fake_library.__version__ = "10.3"
    fake_library.__name__ = "tensorrt"
    with pytest.raises(BackendError, match=r"plugins need|Triton") as e:
        TENSORRT._register_plugins("sm_89")
    assert "\n" not in str(e.value)
