"""`precision="auto"` takes the fastest precision whose images are close enough to float32 on this machine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stylert.core.errors import BackendError, InputError
from stylert.core.seeds import z_from_seeds
from stylert.export.pipeline import export_bundle
from stylert.runtime import Bundle, Generator
from stylert.runtime.backends import backend
from stylert.runtime.choice import backend as times_of
from stylert.runtime.choice import precision as choice
from stylert.runtime.choice.precision import SEEDS, choose_precision

CPU = ("onnxruntime", "openvino", "mnn")
Pair = tuple[str, str]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, bundle: Bundle) -> Callable[[dict[Pair, float], dict[Pair, float]], None]:
    """A function that fixes the milliseconds and the PSNR of every pair of a backend and a precision."""

    def fix(milliseconds: dict[Pair, float], psnr_db: dict[Pair, float]) -> None:
        def measure(_: Bundle, names: list[str], precision: str, threads: int | None) -> dict[str, float]:
            return {name: milliseconds[name, precision] for name in names if (name, precision) in milliseconds}

        monkeypatch.setattr(times_of, "measure", measure)
        monkeypatch.setattr(choice, "measure_pairs", lambda _, pairs, threads: {pair: milliseconds[pair] for pair in pairs})
        monkeypatch.setattr(choice._Reference, "psnr_db", lambda _, name, precision: psnr_db[name, precision])

    return fix


def test_the_choice_is_the_least_time_among_the_accurate_ones_whatever_the_order(
    bundle: Bundle, tmp_path: Path, measured: Callable[..., None]
) -> None:
    pairs = [("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "int8")]
    accuracy = dict(zip(pairs, [100.0, 40.0, 80.0, 30.0], strict=True))
    for i, order in enumerate(itertools.permutations([1.0, 2.0, 3.0, 4.0])):
        milliseconds = dict(zip(pairs, order, strict=True))
        measured(milliseconds, accuracy)
        for least_db in (25.0, 35.0, 60.0, 90.0):
            chosen = choose_precision(bundle, ["onnxruntime", "openvino"], None, least_db, tmp_path / f"{i}")
            accurate = [pair for pair in pairs if accuracy[pair] >= least_db]
            assert (chosen.backend, chosen.precision) == min(accurate, key=milliseconds.__getitem__)


def test_without_a_number_each_precision_has_to_keep_its_own_promise(
    bundle: Bundle, tmp_path: Path, measured: Callable[..., None]
) -> None:
    promise = bundle.precision("int8").min_psnr_db
    times = {("openvino", "int8"): 1.0, ("openvino", "fp32"): 2.0}
    for i, (psnr_db, expected) in enumerate([(promise, "int8"), (promise - 0.1, "fp32")]):
        measured(times, {("openvino", "int8"): psnr_db, ("openvino", "fp32"): 99.0})
        assert choose_precision(bundle, ["openvino"], cache=tmp_path / f"{i}").precision == expected


def test_the_reason_names_time_and_accuracy_also_of_what_was_not_taken(
    bundle: Bundle, tmp_path: Path, measured: Callable[..., None]
) -> None:
    pairs = [("openvino", "int8"), ("openvino", "fp32"), ("onnxruntime", "int8"), ("onnxruntime", "fp32")]
    measured(dict(zip(pairs, [1.5, 3.0, 2.0, 4.0], strict=True)), dict(zip(pairs, [34.25, 85.0, 50.5, 100.0], strict=True)))
    assert choose_precision(bundle, ["openvino", "onnxruntime"], None, 50, tmp_path).why == (
        "the fastest accurate one for one image is int8 on onnxruntime (2.0 ms, 50.5 dB), then fp32 on openvino "
        "(3.0 ms, 85.0 dB); int8 on openvino has 34.2 of 50 dB"
    )


def test_precisions_are_compared_by_times_of_one_measurement(
    bundle: Bundle, tmp_path: Path, measured: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine was twice as slow while one of them was timed by itself."""
    pairs = [("openvino", "int8"), ("openvino", "fp32")]
    measured({pairs[0]: 3.0, pairs[1]: 2.0}, dict.fromkeys(pairs, 60.0))
    monkeypatch.setattr(choice, "measure_pairs", lambda *_: {pairs[0]: 1.5, pairs[1]: 2.0})
    assert choose_precision(bundle, ["openvino"], None, 50, tmp_path).precision == "int8"


@pytest.mark.parametrize("name", ["openvino", "mnn"])
def test_the_measured_psnr_is_that_of_images_by_the_generator(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kept: dict[str, float] = {}
    monkeypatch.setattr(choice, "keep_numbers", lambda _, numbers: kept.update(numbers))
    monkeypatch.setattr(times_of, "measure", lambda _, names, precision, threads: dict.fromkeys(names, 1.0))
    with suppress(InputError):  # perhaps fp32 is not as exact either
        choose_precision(bundle, [name], None, 99.999, tmp_path)
    z = z_from_seeds(range(SEEDS), bundle.model["z_dim"])
    with Generator.load(bundle) as fp32, Generator.load(bundle, name, "int8") as int8:
        rows = [fp32.map(z)[i : i + 1] for i in range(SEEDS)]
        errors = [np.square(int8.synthesize(ws).astype(float) - fp32.synthesize(ws)).mean() for ws in rows]
    assert kept["int8"] == pytest.approx(np.mean([10 * math.log10(255**2 / e) for e in errors]), abs=0.1)


def test_times_and_psnr_are_measured_once(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times_of, "SECONDS", 0.0)
    first = choose_precision(bundle, ["openvino"], cache=tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(times_of, "measure", refuse)
    monkeypatch.setattr(choice, "measure_pairs", refuse)
    monkeypatch.setattr(choice._Reference, "psnr_db", refuse)
    assert choose_precision(bundle, ["openvino"], cache=tmp_path) == first
    monkeypatch.setattr(times_of, "cpu_identity", lambda: "another")
    with pytest.raises(AssertionError, match="measured again"):
        choose_precision(bundle, ["openvino"], cache=tmp_path)


def test_a_network_that_does_not_run_is_no_choice(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_: Bundle, names: list[str], precision: str, threads: int | None) -> dict[str, float]:
        return dict.fromkeys(names, 1.0 if precision == "int8" else 2.0)

    def fail(*_: object) -> None:
        raise BackendError("the driver has gone")

    monkeypatch.setattr(times_of, "measure", measure)
    monkeypatch.setattr(backend("openvino"), "load", fail)
    with pytest.raises(InputError, match=r"no precision is accurate enough here: .* has 0\.0 of .* dB"):
        choose_precision(bundle, ["openvino"], cache=tmp_path)


def test_a_choice_needs_float32_and_a_psnr_in_range_and_installed_backends(bundle: Bundle, tmp_path: Path) -> None:
    without = replace(bundle, precisions={"int8": bundle.precision("int8")})
    with pytest.raises(InputError, match=r"compares images with fp32.*name one of int8"):
        choose_precision(without, cache=tmp_path)
    for wrong in (0, -1, 100.5, math.nan, True, "35"):
        with pytest.raises(InputError, match="min_psnr is above 0 and at most 100 dB"):
            choose_precision(bundle, min_psnr=wrong, cache=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="abacus"):
        choose_precision(bundle, ["abacus"], cache=tmp_path)
    with pytest.raises(InputError, match="min_psnr is for the precision auto"):
        Generator.load(bundle, precision="int8", min_psnr=40)
    with pytest.raises(InputError, match="auto chooses by latency"):
        Generator.load(bundle, "openvino", "auto", hint="throughput")


def test_a_generator_makes_the_images_of_the_precision_that_it_chose(
    bundle: Bundle, tmp_path: Path, measured: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    times = {(name, precision): 5.0 for name in CPU for precision in bundle.precisions}
    measured(times | {("openvino", "int8"): 1.0}, dict.fromkeys(times, 45.0))
    with Generator.load(bundle, "auto", "auto", min_psnr=45) as g, Generator.load(bundle, "openvino", "int8") as expected:
        assert (g.backend, g.precision) == ("openvino", "int8")
        assert "the fastest accurate one for one image is int8 on openvino" in g.why
        np.testing.assert_array_equal(g(range(3)), expected(range(3)))
    with Generator.load(bundle, "onnxruntime", "auto", min_psnr=99) as g:
        assert (g.backend, g.precision) == ("onnxruntime", "fp32")


def test_labels_and_noise_inputs_of_both_sides_are_the_same(
    make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(times_of, "SECONDS", 0.0)
    checkpoint = make_checkpoint(c_dim=3, resolution=8)
    conditional = export_bundle(checkpoint, tmp_path / "b", ["fp32"], noise="input", output="float", verify_seeds=0)
    chosen = choose_precision(conditional, ["openvino"], None, 60, tmp_path / "cache")
    assert (chosen.backend, chosen.precision) == ("openvino", "fp32")
