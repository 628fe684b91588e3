"""Tuning a bundle: what is written is the same network, and what is wrong is refused before the search."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stylert.core.errors import InputError
from stylert.core.statistics import Ratio
from stylert.export.plan import NetworkPlan
from stylert.export.tuning import tune
from stylert.export.tuning.search import Search, search_forms
from stylert.export.tuning.tune import tune_bundle
from stylert.export.verify import verify
from stylert.runtime.bundle import Bundle
from stylert.runtime.generator import Generator


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(bundle.path, tmp_path / "bundle")
    return tmp_path / "bundle"


def found(form: str, value: float) -> Callable[..., Search]:
    """A search that ends with every upsampling layer in `form`, at `value` of the default's time."""

    def search(cfg: Any, default: NetworkPlan, open_plan: Any, *_: object, **__: object) -> Search:
        layers = {
            s.name: replace(default.layer(s), form=form if s.up == 2 else default.layer(s).form)
            for s in cfg.layers()
            if s.kind == "conv"
        }
        plan = replace(default, layers=layers)
        network = open_plan(plan)
        network()
        network.close()
        return Search(plan, [], Ratio(value, value * 0.99, value * 1.01, 50), True)

    return search


@pytest.mark.parametrize(("backend", "precision"), [("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "int8")])
def test_a_faster_plan_becomes_the_backends_network_and_the_images_stay(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, backend: str, precision: str
) -> None:
    with Generator.load(copy, backend, precision) as g:
        before = g([0, 1, 2])
    others = {n: (copy / n).read_bytes() for n in Bundle.load(copy).files}
    monkeypatch.setattr(tune, "search_forms", found("transposed", 0.8))
    monkeypatch.setattr(tune, "keeps", lambda *_: True)
    result = tune_bundle(copy, checkpoint, backend, precision)
    bundle = Bundle.load(copy)
    assert result.file == bundle.network(precision, backend)
    assert "1.25 [1.24, 1.26] times as fast as the default" in result.verdict
    assert set(bundle.files) == {p.name for p in copy.iterdir()} - {"bundle.json"}  # nothing is left over
    for name in bundle.files:
        bundle.checked_file(name)
        if name in others:
            assert (copy / name).read_bytes() == others[name]
    facts = bundle.precision(precision).recipe["tuned"][backend]
    assert facts["layers"]["b16.conv0"].startswith("transposed")
    with Generator.load(copy, backend, precision) as g:
        after = g([0, 1, 2])
    difference = np.abs(after.astype(int) - before.astype(int))
    assert difference.mean() < (0.1 if precision == "fp32" else 4)
    rows = verify(bundle, checkpoint, [backend], [precision], seeds=4)
    assert all(r.psnr_db > (60 if precision == "fp32" else 25) for r in rows)


def test_tuning_again_starts_from_the_default_and_replaces_what_it_wrote(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for form in ("transposed", "polyphase"):
        monkeypatch.setattr(tune, "search_forms", found(form, 0.5))
        tune_bundle(copy, checkpoint, "onnxruntime", "fp32")
    bundle = Bundle.load(copy)
    assert len(list(copy.glob("*.tuned-*.onnx"))) == 1
    assert bundle.precision("fp32").recipe["tuned"]["onnxruntime"]["layers"]["b8.conv0"] == "polyphase"


@pytest.mark.parametrize("case", ["not faster", "misses the PSNR"])
def test_the_default_stays_where_nothing_is_won(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(tune, "search_forms", found("transposed", 1.0 if case == "not faster" else 0.5))
    monkeypatch.setattr(tune, "keeps", lambda *_: False)
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    result = tune_bundle(copy, checkpoint, "onnxruntime", "int8")
    assert result.file is None
    assert result.verdict.startswith("the default stays")
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before


def test_a_real_search_measures_real_networks(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tune, "search_forms", lambda *a, **k: search_forms(*a, **(k | {"seconds_each": 0.02})))
    first = tune_bundle(copy, checkpoint, "onnxruntime", "fp32", threads=1, minutes=0.5)
    assert first.search.complete
    assert {t.where for t in first.search.trials} >= {"convolutions", "torgb", "b8.conv0", "b16.conv0"}
    known = json.loads((tmp_path / "cache" / "stylert" / "forms.json").read_text())
    assert len(known) == 1
    elsewhere = known | {"another machine": {"a change": 0.5}}
    (tmp_path / "cache" / "stylert" / "forms.json").write_text(json.dumps(elsewhere))
    again = tune_bundle(copy, checkpoint, "onnxruntime", "fp32", threads=1, minutes=0.5)
    assert any(t.ratio is None for t in again.search.trials)
    anew = tune_bundle(copy, checkpoint, "onnxruntime", "fp32", threads=1, minutes=0.5, forget=True)
    assert anew.search.trials[0].ratio is not None
    tune_bundle(copy, checkpoint, "onnxruntime", "fp32", threads=2, minutes=0.01)  # remembered in a place of its own
    held = json.loads((tmp_path / "cache" / "stylert" / "forms.json").read_text())
    assert held["another machine"] == {"a change": 0.5}
    assert len(held) == 3


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 3}', "null"])
def test_a_damaged_memory_is_forgotten(
    copy: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    (tmp_path / "cache" / "stylert").mkdir(parents=True)
    (tmp_path / "cache" / "stylert" / "forms.json").write_text(text)
    monkeypatch.setattr(tune, "search_forms", found("transposed", 1.0))
    assert tune_bundle(copy, checkpoint, "onnxruntime", "fp32").file is None


def test_what_cannot_be_tuned_is_refused(
    copy: Path, checkpoint: Path, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    for changes, message in (
        ({"backend_name": "tensorrt"}, "takes no forms"),
        ({"precision": "fp16"}, "no 'fp16' network"),
        ({"minutes": 0.0}, "above 0"),
        ({"minutes": float("nan")}, "above 0"),
        ({"batch": 0}, "at least 1"),
        ({"checkpoint": make_checkpoint(another=True)}, "not the checkpoint"),
        ({"checkpoint": tmp_path / "none"}, "does not exist"),
    ):
        given: dict[str, Any] = {"checkpoint": checkpoint, "backend_name": "onnxruntime", "precision": "fp32"} | changes
        with pytest.raises(InputError, match=message):
            tune_bundle(copy, **given)
