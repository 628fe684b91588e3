"""`backend="auto"` takes the backend with the least measured time, and keeps the times until something changes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stylert.core.errors import BackendError, BundleError, InputError
from stylert.core.machine.devices import Driver, Gpu
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import available_backends, backend
from stylert.runtime.backends.base import LoadOptions
from stylert.runtime.choice import backend as choice
from stylert.runtime.choice.backend import choose_backend, measure
from stylert.runtime.engines import build_engine, engine_folder, engine_key
from stylert.runtime.session import Session

CPU = ["onnxruntime", "openvino", "mnn"]


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """A function that fixes the times of every measurement. It returns a list to which each measurement adds its backends."""

    def fix(**milliseconds: float) -> list[list[str]]:
        measurements: list[list[str]] = []

        def fixed(bundle: Bundle, names: list[str], precision: str, threads: int | None) -> dict[str, float]:
            measurements.append(names)
            return milliseconds

        monkeypatch.setattr(choice, "measure", fixed)
        return measurements

    return fix


@pytest.mark.parametrize(("slow", "fast"), list(itertools.permutations(CPU, 2)))
def test_the_faster_backend_is_taken_and_the_reason_names_both_times(
    bundle: Bundle, tmp_path: Path, times: Callable[..., list[list[str]]], slow: str, fast: str
) -> None:
    times(**{slow: 7.25, fast: 2.5})
    name, why = choose_backend(bundle, "fp32", cache=tmp_path)
    assert name == fast
    assert why == f"{fast} is the fastest for one fp32 image: {fast} 2.5 ms, {slow} 7.2 ms (measured now)"


def test_times_are_kept_until_something_that_they_depend_on_changes(
    bundle: Bundle, tmp_path: Path, times: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measurements = times(onnxruntime=2.0, openvino=1.0)
    assert choose_backend(bundle, "fp32", cache=tmp_path)[0] == "openvino"
    assert "measured before" in choose_backend(bundle, "fp32", cache=tmp_path)[1]
    assert measurements == [CPU]
    for change in (
        lambda: choose_backend(bundle, "int8", cache=tmp_path),
        lambda: choose_backend(bundle, "fp32", threads=1, cache=tmp_path),
        lambda: (
            monkeypatch.setattr(choice, "cpu_identity", lambda: "another") or choose_backend(bundle, "fp32", cache=tmp_path)
        ),
        lambda: monkeypatch.setattr(choice, "usable_cores", lambda: 99) or choose_backend(bundle, "fp32", cache=tmp_path),
    ):
        before = len(measurements)
        change()
        assert len(measurements) == before + 1


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"abacus": 1}', '{"openvino": "x"}', '{"openvino": -1}', "null"])
def test_damaged_times_are_measured_again(
    bundle: Bundle, tmp_path: Path, times: Callable[..., list[list[str]]], damage: str
) -> None:
    measurements = times(onnxruntime=1.0, openvino=2.0)
    choose_backend(bundle, "fp32", cache=tmp_path)
    (file,) = (tmp_path / "auto").iterdir()
    file.write_text(damage)
    assert choose_backend(bundle, "fp32", cache=tmp_path)[0] == "onnxruntime"
    assert len(measurements) == 2
    assert json.loads(file.read_text()) == {"onnxruntime": 1.0, "openvino": 2.0}


def test_a_cache_folder_that_cannot_be_written_only_means_that_times_are_not_kept(
    bundle: Bundle, tmp_path: Path, times: Callable[..., list[list[str]]]
) -> None:
    times(onnxruntime=1.0, openvino=2.0)
    (tmp_path / "file").write_text("")
    assert "not remembered" in choose_backend(bundle, "fp32", cache=tmp_path / "file")[1]


def test_measuring_runs_every_backend_and_leaves_out_those_that_do_not_load(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "SECONDS", 0.0)
    milliseconds = measure(bundle, CPU, "int8", 1)
    assert set(milliseconds) == set(CPU)
    assert all(0 < ms < 60_000 for ms in milliseconds.values())

    def refuse(*args: object, **kwargs: object) -> None:
        raise BundleError("no")

    monkeypatch.setattr(backend("openvino"), "load", refuse)
    assert set(measure(bundle, CPU, "int8", 1)) == set(CPU) - {"openvino"}


class Failing:
    """A session that stops running after some calls."""

    def __init__(self, session: Session, calls: int) -> None:
        self._session, self._left, self.closed = session, calls, False
        self.tensors = session.tensors

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        self._left -= 1
        if self._left < 0:
            raise BackendError("the driver has gone")
        return self._session.run(inputs)

    def close(self) -> None:
        self.closed = True
        self._session.close()


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_backend_that_loads_but_does_not_run_is_left_out_and_closed(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    monkeypatch.setattr(choice, "SECONDS", 0.0)
    first = backend("onnxruntime")
    load, opened = first.load, []

    def fail(network: Path, options: LoadOptions) -> Failing:
        opened.append(Failing(load(network, options), calls))
        return opened[0]

    monkeypatch.setattr(first, "load", fail)
    name, why = choose_backend(bundle, "fp32", 1, tmp_path)
    assert name in ("openvino", "mnn")
    assert "onnxruntime" not in why
    assert opened[0].closed


def test_times_depend_on_the_gpus_and_on_the_content_of_the_engines(
    bundle: Bundle, tmp_path: Path, times: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Bundle.load(shutil.copytree(bundle.path, tmp_path / "bundle"))
    measurements = times(onnxruntime=2.0, openvino=1.0)

    def measured() -> bool:
        before = len(measurements)
        choose_backend(copy, "fp32", cache=tmp_path / "cache")
        return len(measurements) > before

    assert measured()
    assert not measured()
    monkeypatch.setattr(choice, "find_gpus", lambda: Driver("13.0", (Gpu(0, "GPU A", (8, 9), 2**34),), None))
    assert measured()
    assert not measured()
    build_engine(copy, "onnxruntime", "fp32")
    assert measured()
    assert not measured()
    record = engine_folder(copy, engine_key(copy, "onnxruntime", "fp32")) / "engine.json"
    record.write_text(record.read_text().replace('"build_seconds": ', '"build_seconds": 1'))
    assert measured()


def test_the_only_backend_is_taken_without_measuring(
    bundle: Bundle, times: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    measurements = times()
    for module in ("openvino", "MNN"):
        monkeypatch.setitem(sys.modules, module, None)
    assert available_backends() == ["onnxruntime"]
    name, why = choose_backend(bundle, "fp32")
    assert (name, measurements) == ("onnxruntime", [])
    assert "only backend" in why


def test_auto_makes_the_images_of_the_backend_that_it_chose(
    bundle: Bundle, tmp_path: Path, times: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times(onnxruntime=2.0, openvino=1.0)
    with Generator.load(bundle, "auto", "int8") as g, Generator.load(bundle, "openvino", "int8") as expected:
        assert g.backend == "openvino"
        assert "fastest" in g.why
        np.testing.assert_array_equal(g(range(3)), expected(range(3)))
    assert expected.why == "asked for"


def test_auto_refuses_a_precision_that_no_backend_runs(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="fp64"):
        Generator.load(bundle, "auto", "fp64")
    for name in CPU:
        facts = dataclasses.replace(backend(name).facts, precisions=())
        monkeypatch.setattr(backend(name), "facts", facts)
    with pytest.raises(BackendError, match="doctor"):
        Generator.load(bundle, "auto", "fp32")
