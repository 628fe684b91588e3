"""Every registered backend implements the interface of `backends/base.py`, and its sessions implement theirs."""

from __future__ import annotations

import inspect
import re
import sys

import pytest

from stylert.core.errors import BackendError, InputError
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import BACKENDS, available_backends, backend
from stylert.runtime.backends.base import Backend, BackendFacts, LoadOptions
from stylert.runtime.build_options import LATENCY, THROUGHPUT, BuildOptions
from stylert.runtime.session import DeviceSession, device_session

PRECISIONS = {"fp32", "fp16", "bf16", "int8", "fp8"}
#: The methods of backends that build engines
ENGINE_METHODS = ("target", "machine", "flags", "build", "load_engine")
#: The modules without which a backend counts as not installed
LIBRARIES = {
    "mnn": ["MNN"],
    "openvino": ["openvino"],
    "tensorrt": ["tensorrt", "tensorrt_lean"],
    "tensorrt-rtx": ["tensorrt_rtx"],
    "torch": ["torch"],
}


def overrides(chosen: Backend, method: str) -> bool:
    return inspect.getattr_static(type(chosen), method) is not inspect.getattr_static(Backend, method)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backends_facts_are_complete_and_agree_with_each_other(name: str) -> None:
    chosen = backend(name)
    facts = chosen.facts
    assert isinstance(chosen, Backend)
    assert isinstance(facts, BackendFacts)
    assert chosen.name == facts.name == name
    assert facts.precisions
    assert set(facts.precisions) <= PRECISIONS
    assert facts.hints[0] == LATENCY
    assert set(facts.hints) <= {LATENCY, THROUGHPUT}
    assert facts.library
    assert facts.install.startswith("pip ")
    assert facts.engine_suffix is None or re.fullmatch(r"\.\w+", facts.engine_suffix)
    if facts.engine_suffix is None:
        assert not facts.needs_engine
        assert not facts.deferred_files


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_has_the_engine_methods_if_and_only_if_it_builds_engines(name: str) -> None:
    chosen = backend(name)
    builds = chosen.facts.engine_suffix is not None
    assert [overrides(chosen, method) for method in ENGINE_METHODS] == [builds] * len(ENGINE_METHODS)
    assert overrides(chosen, "load") == (not chosen.facts.needs_engine)
    assert builds or chosen.targets() == []


@pytest.mark.parametrize("name", BACKENDS)
def test_methods_take_the_arguments_of_the_interface(name: str) -> None:
    for method, function in inspect.getmembers(Backend, inspect.isfunction):
        own = inspect.getattr_static(type(backend(name)), method)
        assert list(inspect.signature(own).parameters) == list(inspect.signature(function).parameters), method


@pytest.mark.parametrize("name", BACKENDS)
def test_whether_a_backend_can_run_is_told_in_types_of_the_interface(name: str) -> None:
    chosen = backend(name)
    assert isinstance(chosen.available(), bool)
    reason = chosen.unavailable_reason()
    assert (reason is None) == (name in available_backends() or (name == "torch" and chosen.available()))
    assert reason is None or "\n" not in reason
    if chosen.available():
        assert re.match(r"\d+\.\d+", chosen.version())


@pytest.mark.parametrize("name", BACKENDS)
def test_the_reason_for_a_missing_library_is_one_line_with_its_install_command(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    chosen = backend(name)
    monkeypatch.setattr(chosen, "available", lambda: False)
    reason = chosen.unavailable_reason()
    assert reason is not None
    assert reason.endswith(chosen.facts.install)
    assert "\n" not in reason


@pytest.mark.parametrize("name", LIBRARIES)
def test_loading_without_the_library_is_one_line_with_its_install_command(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in LIBRARIES[name]:
        monkeypatch.setitem(sys.modules, module, None)
    assert not backend(name).available()
    with pytest.raises(BackendError, match=re.escape(backend(name).facts.install)) as e:
        Generator.load(bundle, name)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", [name for name in BACKENDS if backend(name).facts.engine_suffix is None])
def test_a_backend_without_engines_refuses_to_build_one_in_one_line(bundle: Bundle, name: str) -> None:
    with pytest.raises(InputError, match="no engines") as e:
        backend(name).target(BuildOptions())
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", [name for name in BACKENDS if backend(name).facts.needs_engine])
def test_a_backend_that_needs_engines_refuses_an_onnx_file_with_the_command_that_builds_one(bundle: Bundle, name: str) -> None:
    with pytest.raises(BackendError, match=f"stylert build BUNDLE --backend {name}"):
        backend(name).load(bundle.path / "synthesis.fp32.onnx", LoadOptions("fp32"))


@pytest.mark.parametrize("name", available_backends())
def test_a_session_has_every_attribute_of_the_protocol(bundle: Bundle, name: str) -> None:
    if backend(name).facts.needs_engine:
        pytest.skip("the bundle has no engine")
    session = backend(name).load(bundle.checked_file(bundle.network("fp32", name)), LoadOptions("fp32", threads=1))
    assert session.device in ("cpu", "cuda")
    assert all(1 <= least <= best <= largest for least, best, largest in session.ranges)
    assert session.concurrency >= 1
    assert list(session.notes) == []
    assert (device_session(session) is not None) == (session.device == "cuda")
    if session.device == "cuda":
        assert isinstance(session, DeviceSession)
    session.close()
