"""A card says what the files say, marks the rest, and takes no figures of another model."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stylert.benchmarks.models import model_facts as benchmark_facts
from stylert.benchmarks.models import model_work
from stylert.benchmarks.report.model_card import BLANK, LICENCES, ModelFacts, model_card, model_facts
from stylert.cli import main as cli
from stylert.core.errors import CheckpointError, InputError
from stylert.core.files.digests import sha256_of
from stylert.runtime.bundle import Bundle

ROOT = Path(__file__).parents[3]
CATS = ROOT / "examples" / "cats64.safetensors"


def head(card: str) -> dict[str, Any]:
    """The metadata of a card: values and lists of a flat YAML document."""
    _, text, _ = card.split("---\n", 2)
    found: dict[str, Any] = {}
    for line in text.splitlines():
        if item := re.fullmatch(r"- (.+)", line):
            found[list(found)[-1]].append(item[1])
        else:
            key, _, value = line.partition(":")
            found[key] = value.strip() or []
    return found


def test_the_card_of_the_shipped_checkpoint_has_its_facts() -> None:
    card = model_card(model_facts(CATS))
    assert head(card) == {
        "license": "cc-by-4.0",
        "library_name": "stylert",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["stylegan2", "gan", "image-generation"],
    }
    for text in ("64 x 64 pixels", "2.13 million", "96.74 thousand images", "drawings by David Revoy", sha256_of(CATS)):
        assert text in card
    for heading in (
        "Intended use",
        "Out of scope",
        "Risks and limits",
        "Quality of the images",
        "Speed",
        "Citation and contact",
    ):
        section = card.partition(f"# {heading}\n")[2].partition("\n#")[0]
        assert BLANK in section, heading


def test_the_card_of_a_bundle_lists_its_files_and_accuracy(bundle: Bundle) -> None:
    measured = {"onnxruntime": {"psnr_db": 41.234, "worst_psnr_db": 38.5}}
    entry = replace(bundle.precisions["int8"], accuracy=measured)
    facts = model_facts(bundle.path)
    assert facts.bundle is not None
    card = model_card(replace(facts, bundle=replace(bundle, precisions={"int8": entry})))
    assert "| int8 | onnxruntime | 33 | 41.23 | 38.50 |" in card
    assert all(f"`{name}`" in card for name in bundle.files)
    assert head(card)["tags"][-1] == "onnx"
    assert head(card)["license"] == "unknown"


def results_of(bundle: Bundle, weights: str | None = None) -> dict[str, Any]:
    """A results file with a row of the bundle, made from one of the repository."""
    document = json.loads((ROOT / "benchmarks/results/xeon-2-cores-2026-11-23/results.json").read_text())
    row = next(row for row in document["rows"] if row["scenario"] == "single-stream")
    row["work"] |= {**model_work("small", bundle), **({} if weights is None else {"weights": weights})}
    return {**document, "rows": [row], "models": {"small": benchmark_facts(bundle)}, "accuracy": []}


def test_times_of_the_model_are_in_its_card(bundle: Bundle, tmp_path: Path) -> None:
    document = results_of(bundle)
    (tmp_path / "results.json").write_text(json.dumps(document))
    card = model_card(model_facts(bundle.path), results=tmp_path / "results.json")
    assert "single-stream: one image at a time" in card
    assert document["machine"]["cpu"].split("[")[0].strip() in card
    assert document["created"][:10] in card


def test_times_of_another_model_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results_of(bundle, "0" * 16)))
    with pytest.raises(InputError, match="no measurement of this model"):
        model_card(model_facts(bundle.path), results=tmp_path / "results.json")


METRICS = {"images": [5000, 5000], "noise": "const", "metrics": {"fd5k": 132.8}, "floor": {"fd5k": 1.6}}


def test_metrics_of_the_checkpoint_are_in_its_card_and_others_refused(checkpoint: Path, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({**METRICS, "checkpoint_sha256": sha256_of(checkpoint)}))
    for source in (checkpoint, bundle.path):
        card = model_card(model_facts(source), metrics=path)
        assert "| fd5k | 132.8 | 1.6 |" in card
        assert "5000 generated images with const noise beside 5000 real ones" in card
    with pytest.raises(InputError, match="metrics of another checkpoint"):
        model_card(model_facts(CATS), metrics=path)
    path.write_text(json.dumps(METRICS))
    with pytest.raises(InputError, match="does not say which checkpoint"):
        model_card(model_facts(checkpoint), metrics=path)


def test_metrics_without_a_floor_have_no_column_for_it(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({**METRICS, "floor": {}, "checkpoint_sha256": sha256_of(checkpoint)}))
    card = model_card(model_facts(checkpoint), metrics=path)
    assert "| fd5k | 132.8 |\n" in card
    assert "floor" not in card


def test_the_card_of_a_marked_network_tells_of_the_mark(checkpoint: Path) -> None:
    facts = model_facts(checkpoint)
    assert "watermark detect" not in model_card(facts)
    for mark, words in (({"bits": 32, "psnr": 38.706}, "32 bits (38.7 dB PSNR)"), ({"bits": 8, "psnr": None}, "8 bits,")):
        card = model_card(replace(facts, info={**facts.info, "watermark": mark}))
        assert words in card
        assert "watermark detect" in card
        assert "{" not in card
    for damaged in ("x", {"bits": "[a](b)"}, {}, None):
        assert "watermark detect" not in model_card(replace(facts, info={"watermark": damaged}))


@pytest.mark.parametrize("licence", [*LICENCES, "CC BY 4.0", "CC-BY-NC 4.0", "my own", 3, None, 'a"\nb: c'])
def test_a_licence_is_one_that_the_hub_knows_or_other_with_its_name(licence: object, checkpoint: Path) -> None:
    facts: ModelFacts = replace(model_facts(checkpoint), info={"licence": licence})
    found = head(model_card(facts))
    assert found["license"] in (*LICENCES, "other", "unknown")
    assert (found["license"] == "other") == ("license_name" in found)
    assert set(found) <= {"license", "license_name", "library_name", "pipeline_tag", "tags"}
    assert (found["license"] == "unknown") == (licence is None)


@pytest.mark.parametrize(
    "hostile", ["[click](http://a)", "<script>", "| a |\n# b", "`x`", "x" * 10_000, ["a"], {"b": 1}, None, True]
)
def test_texts_of_a_checkpoint_become_no_markup(hostile: object, checkpoint: Path) -> None:
    names = ("data", "training", "credit", "kimg", "unknown fact", "kimg | x")
    facts = replace(model_facts(checkpoint), name="[a](b)", info=dict.fromkeys(names, hostile))
    card = model_card(facts)
    assert "[click](http" not in card
    assert "<script" not in re.sub(r"\\<", "", card)
    assert [line for line in card.splitlines() if line.startswith("#") and line.strip("# ") == "b"] == []
    assert max(map(len, card.splitlines())) < 1200


def run(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["stylert", "card", *map(str, args)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_the_command_writes_a_card_and_replaces_none(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "card.md"
    assert run(monkeypatch, checkpoint, "--out", out) == 0
    assert "places are marked" in capfd.readouterr().out
    out.write_text("what people wrote")
    assert run(monkeypatch, checkpoint, "--out", out) == 2
    assert out.read_text() == "what people wrote"


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x" * 100), lambda path: path.write_bytes(b"")]
)
def test_a_damaged_checkpoint_is_one_line_and_no_card(
    damage: Callable[[Path], object],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "model.safetensors"
    shutil.copy(checkpoint, copy)
    damage(copy)
    with pytest.raises(CheckpointError):
        model_facts(copy)
    assert run(monkeypatch, copy, "--out", tmp_path / "card.md") == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "card.md").exists()
