"""Tuning a bundle: the written network makes the same images, and wrong requests are refused before the search."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import BackendError, InputError, OutputError
from stylert.core.files.digests import sha256_of
from stylert.core.machine.devices import Driver, Gpu
from stylert.core.machine.host import cpu_identity
from stylert.core.statistics import Ratio
from stylert.export.network_plan import Int8Quantization as Int8
from stylert.export.network_plan import LayerPlan, NetworkPlan, QuantParams
from stylert.export.pipeline import export_bundle
from stylert.export.tuning import tune
from stylert.export.tuning.search import Search, describe, search_forms
from stylert.export.tuning.tune import tune_bundle
from stylert.export.verify import verify
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator
from tests.faults import rights_of_a_user, started


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundle, and a cache folder of this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(bundle.path, tmp_path / "bundle")
    return tmp_path / "bundle"


def search_result(form: str, time_ratio: float) -> Callable[..., Search]:
    """A search that ends with every upsampling layer in `form`, at `time_ratio` times the default's time."""

    def search(cfg: Any, default: NetworkPlan, open_plan: Any, *_: object, **__: object) -> Search:
        layers = {
            spec.name: replace(default.layer(spec), form=form if spec.up == 2 else default.layer(spec).form)
            for spec in cfg.layers()
            if spec.kind == "conv"
        }
        plan = replace(default, layers=layers)
        network = open_plan(plan)
        network()
        network.close()
        return Search(plan, [], Ratio(time_ratio, time_ratio * 0.99, time_ratio * 1.01, 50), True)

    return search


@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "int8")])
def test_a_faster_plan_becomes_the_backends_network_and_the_images_stay(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, backend: str, precision: str
) -> None:
    with Generator.load(copy, backend, precision) as generator:
        before = generator([0, 1, 2])
    former_files = {name: (copy / name).read_bytes() for name in Bundle.load(copy).files}
    monkeypatch.setattr(tune, "search_forms", search_result("transposed", 0.8))
    monkeypatch.setattr(tune, "reaches_psnr", lambda *_: True)
    result = tune_bundle(copy, checkpoint, backend, precision)
    bundle = Bundle.load(copy)
    assert result.file == bundle.network(precision, backend)
    assert "1.25 [1.24, 1.26] times as fast as the default" in result.verdict
    assert set(bundle.files) == {p.name for p in copy.iterdir()} - {"bundle.json"}, "no unlisted file may be left"
    for name in bundle.files:
        bundle.checked_file(name)
        if name in former_files:
            assert (copy / name).read_bytes() == former_files[name]
    facts = bundle.precision(precision).recipe["tuned"][bundle.plan_name(precision, backend)]
    assert facts["layers"]["b16.conv0"].startswith("transposed")
    with Generator.load(copy, backend, precision) as generator:
        after = generator([0, 1, 2])
    difference = np.abs(after.astype(int) - before.astype(int))
    assert difference.mean() < (0.1 if precision == "fp32" else 4)
    rows = verify(bundle, checkpoint, [backend], [precision], seeds=4)
    assert all(row.psnr_db > (60 if precision == "fp32" else 25) for row in rows)


def test_tuning_again_starts_from_the_default_and_replaces_the_former_network(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in ("transposed", "polyphase"):
        monkeypatch.setattr(tune, "search_forms", search_result(form, 0.5))
        tune_bundle(copy, checkpoint, "onnxruntime", "fp32")
    bundle = Bundle.load(copy)
    assert len(list(copy.glob("*.tuned-*.onnx"))) == 1
    assert bundle.precision("fp32").recipe["tuned"]["onnxruntime"]["layers"]["b8.conv0"] == "polyphase"


@pytest.mark.parametrize("case", ["not faster", "misses the PSNR"])
def test_the_default_stays_where_nothing_is_won(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(tune, "search_forms", search_result("transposed", 1.0 if case == "not faster" else 0.5))
    monkeypatch.setattr(tune, "reaches_psnr", lambda *_: False)
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    result = tune_bundle(copy, checkpoint, "onnxruntime", "int8")
    assert result.file is None
    assert result.verdict.startswith("the default stays")
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before


def test_a_real_search_measures_real_networks_and_caches_its_ratios(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tune, "search_forms", lambda *a, **k: search_forms(*a, **(k | {"seconds_each": 0.02})))
    first = tune_bundle(copy, checkpoint, "onnxruntime", "fp32", threads=1, minutes=0.5)
    assert first.search.complete
    assert {trial.where for trial in first.search.trials} >= {"convolutions", "torgb", "b8.conv0", "b16.conv0"}
    cache = tmp_path / "cache" / "stylert" / "forms.json"
    content = json.loads(cache.read_text())
    assert len(content) == 1
    cache.write_text(json.dumps(content | {"another machine": {"a change": 0.5}}))
    again = tune_bundle(copy, checkpoint, "onnxruntime", "fp32", threads=1, minutes=0.5)
    assert any(trial.ratio is None for trial in again.search.trials)
    anew = tune_bundle(copy, checkpoint, "onnxruntime", "fp32", threads=1, minutes=0.5, forget=True)
    assert anew.search.trials[0].ratio is not None
    tune_bundle(copy, checkpoint, "onnxruntime", "fp32", threads=2, minutes=0.01)  # other settings have a section of their own
    content = json.loads(cache.read_text())
    assert content["another machine"] == {"a change": 0.5}
    assert len(content) == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, BackendError("out of memory")])
def test_what_was_measured_before_an_interruption_is_kept(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Any
) -> None:
    def interrupted(*_: object, known_ratios: dict[str, float], **__: object) -> Search:
        known_ratios["a change"] = 0.5
        raise error

    monkeypatch.setattr(tune, "search_forms", interrupted)
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    with pytest.raises((KeyboardInterrupt, BackendError)):
        tune_bundle(copy, checkpoint, "onnxruntime", "fp32")
    (section,) = json.loads((tmp_path / "cache" / "stylert" / "forms.json").read_text()).values()
    assert section == {"a change": 0.5}
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before


def test_two_searches_at_the_same_time_lose_neither_ratios_nor_networks(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second one starts and ends while the first one measures."""
    result = search_result("transposed", 0.5)

    def inner(*arguments: Any, known_ratios: dict[str, float], **options: Any) -> Search:
        known_ratios["inner"] = 0.25
        return result(*arguments, **options)

    def outer(*arguments: Any, known_ratios: dict[str, float], **options: Any) -> Search:
        monkeypatch.setattr(tune, "search_forms", inner)
        tune_bundle(copy, checkpoint, "openvino", "fp32")
        tune_bundle(copy, checkpoint, "onnxruntime", "int8")
        tune_bundle(copy, checkpoint, "onnxruntime", "fp32")
        known_ratios["outer"] = 0.5
        return result(*arguments, **options)

    monkeypatch.setattr(tune, "reaches_psnr", lambda *_: True)
    monkeypatch.setattr(tune, "search_forms", outer)
    tune_bundle(copy, checkpoint, "onnxruntime", "fp32")
    sections = json.loads((tmp_path / "cache" / "stylert" / "forms.json").read_text())
    assert sorted(sorted(section) for section in sections.values()) == [["inner"], ["inner"], ["inner", "outer"]]
    bundle = Bundle.load(copy)
    assert set(bundle.precision("fp32").recipe["tuned"]) == {"openvino", "onnxruntime"}
    assert set(bundle.precision("int8").recipe["tuned"]) == {"onnxruntime"}
    for name in bundle.files:
        bundle.checked_file(name)


def test_a_bundle_that_was_exported_anew_in_the_meantime_is_left_alone(
    copy: Path, checkpoint: Path, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*arguments: Any, **options: Any) -> Search:
        export_bundle(make_checkpoint(another=True), copy, ["fp32"])
        return search_result("transposed", 0.5)(*arguments, **options)

    monkeypatch.setattr(tune, "search_forms", search)
    with pytest.raises(InputError, match="exported anew"):
        tune_bundle(copy, checkpoint, "onnxruntime", "fp32")
    assert not Bundle.load(copy).precision("fp32").recipe


def test_an_export_while_the_network_is_written_replaces_it_as_well(
    copy: Path, checkpoint: Path, make_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    another, write, exports = make_checkpoint(another=True), tune._write_network, []

    def write_during_export(*arguments: Any) -> str:
        exports.append(started(lambda: export_bundle(another, copy, ["fp32"])))
        return write(*arguments)

    monkeypatch.setattr(tune, "search_forms", search_result("transposed", 0.5))
    monkeypatch.setattr(tune, "_write_network", write_during_export)
    tune_bundle(copy, checkpoint, "onnxruntime", "fp32")
    exports[0].result()
    bundle = Bundle.load(copy)
    assert bundle.provenance["checkpoint_sha256"] == sha256_of(another)
    for name in bundle.files:
        bundle.checked_file(name)
    assert "tuned" not in bundle.precision("fp32").recipe


def test_an_export_of_the_same_checkpoint_with_other_options_is_left_alone(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*arguments: Any, **options: Any) -> Search:
        export_bundle(checkpoint, copy, ["fp32"], noise="none")
        return search_result("transposed", 0.5)(*arguments, **options)

    monkeypatch.setattr(tune, "search_forms", search)
    with pytest.raises(InputError, match="exported anew"):
        tune_bundle(copy, checkpoint, "onnxruntime", "fp32")
    assert not Bundle.load(copy).precision("fp32").recipe


@pytest.mark.parametrize("protected", ["folder", "manifest"])
def test_a_bundle_that_cannot_be_written_is_refused_before_the_search(
    protected: str, copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy if protected == "folder" else copy / "bundle.json").chmod(0o555)
    monkeypatch.setattr(tune, "search_forms", lambda *_, **__: pytest.fail("the search has begun"))
    with rights_of_a_user(), pytest.raises(OutputError, match=r"cannot write .*bundle\.json"):
        tune_bundle(copy, checkpoint, "onnxruntime", "fp32")
    copy.chmod(0o755)


def test_a_cache_that_cannot_be_written_costs_no_search(copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    monkeypatch.setattr(tune, "search_forms", search_result("transposed", 0.5))
    assert tune_bundle(copy, checkpoint, "onnxruntime", "fp32").file == Bundle.load(copy).network("fp32", "onnxruntime")


def test_an_export_replaces_the_network_that_a_killed_tune_left(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(bundle: Bundle) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tune, "search_forms", search_result("transposed", 0.5))
        patch.setattr(Bundle, "save", kill)
        with pytest.raises(KeyboardInterrupt):
            tune_bundle(copy, checkpoint, "onnxruntime", "fp32")
    assert len(list(copy.glob("*.tuned-*.onnx"))) == 1
    export_bundle(checkpoint, copy, ["fp32"], verify_seeds=0)
    assert not list(copy.glob("*.tuned-*.onnx"))


def test_ratios_of_a_gpu_are_kept_by_its_name_and_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = set()
    for name, version in (("A", "12.8"), ("B", "12.8"), ("A", "13.0")):
        driver = Driver(version, (Gpu(0, name, (8, 9), 1),), None)
        monkeypatch.setattr(tune, "find_gpus", lambda driver=driver: driver)
        machines.add(tune._machine("onnxruntime-cuda"))
        assert tune._machine("onnxruntime") == cpu_identity()
    assert len(machines) == 3


def test_descriptions_stay_those_of_caches_that_users_have() -> None:
    both_sides = Int8(QuantParams(0.1), QuantParams(0.1))
    assert describe(LayerPlan("transposed")) == "transposed"
    assert describe(LayerPlan("conv", None, Int8(QuantParams(0.1)))) == "conv int8"
    assert describe(LayerPlan("phases", None, both_sides)) == "phases int8 on both sides"
    folded = replace(both_sides, fold_modulation=True)
    assert describe(LayerPlan("phases", None, folded)) == "phases int8 on both sides, scaled steps"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 3}', "null"])
def test_a_damaged_cache_is_ignored(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (tmp_path / "cache" / "stylert").mkdir(parents=True)
    (tmp_path / "cache" / "stylert" / "forms.json").write_text(text)
    monkeypatch.setattr(tune, "search_forms", search_result("transposed", 1.0))
    assert tune_bundle(copy, checkpoint, "onnxruntime", "fp32").file is None


def test_a_manifest_that_is_a_link_is_refused_before_the_search(copy: Path, checkpoint: Path, tmp_path: Path) -> None:
    """As in the cache of a model hub, whose files several folders share."""
    (copy / "bundle.json").rename(tmp_path / "shared.json")
    (copy / "bundle.json").symlink_to(tmp_path / "shared.json")
    before = (tmp_path / "shared.json").read_bytes()
    with pytest.raises(OutputError, match=r"bundle\.json is a link"):
        tune_bundle(copy, checkpoint, "onnxruntime", "fp32")
    assert (tmp_path / "shared.json").read_bytes() == before


def test_wrong_requests_are_refused(copy: Path, checkpoint: Path, make_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    for changes, message in (
        ({"backend_name": "tensorrt"}, "takes no forms"),
        ({"precision": "fp16"}, "no 'fp16' network"),
        ({"minutes": 0.0}, "above 0"),
        ({"minutes": float("nan")}, "above 0"),
        ({"batch": 0}, "at least 1"),
        ({"checkpoint": make_checkpoint(another=True)}, "not the checkpoint"),
        ({"checkpoint": tmp_path / "none"}, "does not exist"),
    ):
        request: dict[str, Any] = {"checkpoint": checkpoint, "backend_name": "onnxruntime", "precision": "fp32"} | changes
        with pytest.raises(InputError, match=message):
            tune_bundle(copy, **request)
