"""The card of a model in the form of Hugging Face: metadata in YAML, then sections in Markdown.

The card is filled from the checkpoint, the bundle and measurements. For all that only people know it has `BLANK`, the marker of Hugging
Face's own template. Texts from files are escaped, so that they cannot become links or markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stylert.benchmarks.models import bundle_config, weights_digest
from stylert.benchmarks.report.tables import TITLES, by_scenario, cells, columns, markdown, number
from stylert.benchmarks.schema import read_results
from stylert.core.errors import InputError, shown_line
from stylert.core.files.digests import sha256_of
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import MAX_BYTES, read_document
from stylert.models.checkpoint import read_metadata
from stylert.models.network_config import BaseGeneratorConfig
from stylert.models.network_kinds import generator_config, parameter_count
from stylert.runtime.bundle import Bundle

BLANK = "[More Information Needed]"
#: Licences that Hugging Face knows by these names.
LICENCES = (
    *("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    *("cc-by-nd-4.0", "cc-by-nc-nd-4.0", "openrail", "gpl-3.0", "unlicense"),
)
MAX_TEXT = 500
#: Signs of Markdown in texts from files.
MARKUP = re.compile(r"([\\`*_\[\]<>|#~!])")


@dataclass(frozen=True)
class ModelFacts:
    """The facts of a model from its file.

    Attributes:
        name: Its name.
        config: Configuration of the generator.
        kind: `bundle`, `generator` or `training`.
        info: Free facts from the checkpoint.
        checkpoint_sha256: Hash of the checkpoint's file; None if a bundle does not name it.
        bundle: The bundle, or None for a checkpoint.
    """

    name: str
    config: BaseGeneratorConfig
    kind: str
    info: Mapping[str, Any]
    checkpoint_sha256: str | None
    bundle: Bundle | None = None


@dataclass(frozen=True)
class MetricsDocument:
    """The part of what `stylert metrics --json` writes that a card shows.

    Attributes:
        images: Number of generated and of real images.
        noise: Kind of the noise.
        metrics: Values by name.
        checkpoint_sha256: Hash of the checkpoint; empty in files of older versions.
        floor: The values for two sets of real images.
    """

    images: tuple[int, int]
    noise: str
    metrics: dict[str, float]
    checkpoint_sha256: str = ""
    floor: dict[str, float] = field(default_factory=dict)


def model_facts(source: Path) -> ModelFacts:
    """The facts of a bundle's folder, or of a checkpoint.

    Raises:
        BundleError, CheckpointError: The source is missing or damaged.
    """
    if source.is_dir():
        bundle = Bundle.load(source)
        facts = bundle.provenance
        name = Path(str(facts.get("checkpoint", source.name))).stem
        info, digest = facts.get("info"), facts.get("checkpoint_sha256")
        config = bundle_config(bundle)
        return ModelFacts(
            name, config, "bundle", info if isinstance(info, dict) else {}, str(digest) if digest else None, bundle
        )
    metadata = read_metadata(source)
    info = {**(metadata.get("info") or {})}
    images = (metadata.get("facts") or {}).get("nimg")
    if isinstance(images, int | float):
        info.setdefault("kimg", images / 1000)
    return ModelFacts(source.stem, generator_config(metadata["generator"]), metadata["kind"], info, sha256_of(source))


def model_card(facts: ModelFacts, results: Path | None = None, metrics: Path | None = None) -> str:
    """The card of a model, as Markdown.

    Args:
        facts: The model.
        results: A results file of `stylert bench` or `stylert demo`.
        metrics: A file of `stylert metrics --json`.

    Raises:
        InputError: A file cannot be read, or holds figures of another model.
        BackendError: The extra `bench` is missing, which reads results.
    """
    sections = [
        _metadata(facts),
        f"# {_text(facts.name)}\n",
        _details(facts),
        _USES,
        _RISKS,
        _start(facts),
        _training(facts),
        _evaluation(facts, results, metrics),
        _technical(facts),
        _marks(facts),
        f"## Citation and contact\n\n{BLANK}\n",
    ]
    return "\n".join(sections)


def _metadata(facts: ModelFacts) -> str:
    """The YAML at the head. A string in JSON is one in YAML, too."""
    licence = _licence(facts)
    named = licence.lower().replace(" ", "-") if licence else ""
    lines = [f"license: {named if named in LICENCES else 'other' if licence else 'unknown'}"]
    if licence and named not in LICENCES:
        lines.append(f"license_name: {json.dumps(shown_line(licence, 100))}")
    lines += ["library_name: stylert", "pipeline_tag: unconditional-image-generation", "tags:"]
    tags = [facts.config.network, "gan", "image-generation", *(["onnx"] if facts.bundle is not None else [])]
    return "\n".join(["---", *lines, *(f"- {tag}" for tag in tags), "---", ""])


def _details(facts: ModelFacts) -> str:
    cfg = facts.config
    kind = "with classes or labels" if cfg.c_dim else "without labels"
    rows = [
        ("Kind", f"{cfg.title} generator {kind}"),
        ("Images", f"{cfg.resolution} x {cfg.resolution} pixels, {cfg.img_channels} channels"),
        ("Parameters", f"{parameter_count(cfg) / 1e6:.2f} million"),
        ("Made with", "stylert"),
        ("Licence", _text(_licence(facts)) or BLANK),
        ("Credit", _text(facts.info.get("credit")) or BLANK),
        ("Developed by", BLANK),
    ]
    if facts.checkpoint_sha256 is not None:
        rows.append(("Checkpoint, sha256", f"`{shown_line(facts.checkpoint_sha256, 64)}`"))
    return f"## Model details\n\n{markdown(['<field', '<value'], rows)}"


def _start(facts: ModelFacts) -> str:
    steps = "" if facts.bundle is not None else "stylert export CHECKPOINT --out bundle\n"
    return (
        f"## How to get started\n\nWith [stylert](https://github.com/stylert/stylert):\n\n```console\n{steps}"
        "stylert generate bundle --seeds 0-7 --psi 0.7 --out images\n```\n"
    )


def _training(facts: ModelFacts) -> str:
    kimg = facts.info.get("kimg")
    length = (
        f"{number(float(kimg), 4)} thousand images" if isinstance(kimg, int | float) and not isinstance(kimg, bool) else BLANK
    )
    known = ("data", "kimg", "training", "credit", "licence", "license", "weights_sha256", "watermark")
    others = "".join(f"- {_text(key)}: {_text(value)}\n" for key, value in facts.info.items() if key not in known)
    return (
        f"## Training\n\n### Data\n\n{_text(facts.info.get('data')) or BLANK}\n\n"
        f"Consent, licence and origin of the data: {BLANK}\n\n"
        f"### Procedure\n\n{_text(facts.info.get('training')) or BLANK}\n\nLength: {length}.\n"
        + (f"\nFurther facts of the checkpoint:\n\n{others}" if others else "")
    )


def _evaluation(facts: ModelFacts, results: Path | None, metrics: Path | None) -> str:
    parts = [_quality(facts, metrics), _accuracy(facts), _speed(facts, results)]
    return "## Evaluation\n\n" + "\n".join(part for part in parts if part)


def _quality(facts: ModelFacts, path: Path | None) -> str:
    if path is None:
        return f"### Quality of the images\n\n{BLANK} (`stylert metrics`)\n"
    name = str(path)
    measured = read_document(read_file(path, InputError, MAX_BYTES, "metrics file"), MetricsDocument, name, InputError)
    if not measured.checkpoint_sha256:
        raise InputError(f"{name} does not say which checkpoint it measured: run `stylert metrics --json` again")
    if measured.checkpoint_sha256 != facts.checkpoint_sha256:
        raise InputError(f"{name} holds metrics of another checkpoint, {measured.checkpoint_sha256[:12]}")
    heads, text = ["<metric", "generated"], ""
    rows = [[_text(key), number(value, 5)] for key, value in measured.metrics.items()]
    if measured.floor:
        heads, text = [*heads, "floor"], " The floor compares two sets of real images."
        for row, key in zip(rows, measured.metrics, strict=True):
            row.append(number(measured.floor[key], 5) if key in measured.floor else "–")
    generated, real = measured.images
    return (
        f"### Quality of the images\n\n{generated} generated images with {_text(measured.noise)} noise beside {real} real ones."
        f"{text}\n\n{markdown(heads, rows)}"
    )


def _accuracy(facts: ModelFacts) -> str:
    """The accuracy of each precision, as the export measured it."""
    if facts.bundle is None:
        return ""
    rows = []
    for name, entry in facts.bundle.precisions.items():
        for backend, measured in entry.accuracy.items():
            if isinstance(measured, dict):
                mean, worst = (measured.get(key) for key in ("psnr_db", "worst_psnr_db"))
                rows.append((_text(name), _text(backend), f"{entry.min_psnr_db:g}", _figure(mean), _figure(worst)))
    if not rows:
        return f"### Accuracy of the networks\n\n{BLANK} (`stylert export --verify-seeds 16`)\n"
    heads = ["<precision", "<backend", "promised PSNR, dB", "mean", "worst"]
    return f"### Accuracy of the networks\n\nAgainst PyTorch in float32:\n\n{markdown(heads, rows)}"


def _speed(facts: ModelFacts, path: Path | None) -> str:
    if path is None:
        return f"### Speed\n\n{BLANK} (`stylert bench`)\n"
    document = read_results(path)
    digest = weights_digest(facts.info, facts.checkpoint_sha256)
    rows = [row for row in document["rows"] if row["work"].get("weights") == digest]
    if not rows:
        raise InputError(f"{path} holds no measurement of this model: its weights are {digest}")
    machine = document["machine"]
    text = f"### Speed\n\nOn {machine['cores']} cores of {_text(machine['cpu'])}, {_text(document['created'])[:10]}.\n"
    for scenario, of_scenario in by_scenario(rows).items():
        table = markdown(columns(scenario), [cells(row, document["accuracy"]) for row in of_scenario])
        text += f"\n{TITLES[scenario]}\n\n{table}"
    return text


def _technical(facts: ModelFacts) -> str:
    cfg = facts.config
    rows = [
        ("Latents z and w", f"{cfg.z_dim} and {cfg.w_dim}, {cfg.num_ws} latents w for an image"),
        ("Multiply-accumulates of an image", f"{cfg.macs() / 1e9:.3g} billion"),
        ("Label", f"{cfg.c_dim} dimensions" if cfg.c_dim else "none"),
    ]
    text = f"## Technical specifications\n\n{markdown(['<field', '<value'], rows)}"
    if facts.bundle is not None:
        files = [(f"`{name}`", f"{entry.bytes / 2**20:.1f}", f"`{entry.sha256}`") for name, entry in facts.bundle.files.items()]
        text += "\n" + markdown(["<file", "MiB", "<sha256"], files)
    return text


def _marks(facts: ModelFacts) -> str:
    mark = facts.info.get("watermark")
    if not isinstance(mark, dict) or not isinstance(bits := mark.get("bits"), int):
        return _MARKS
    psnr = mark.get("psnr")
    return _MARKS + _PIXELS.format(bits=bits, psnr=f" ({psnr:.1f} dB PSNR)" if isinstance(psnr, int | float) else "")


def _licence(facts: ModelFacts) -> str:
    return str(facts.info.get("licence") or facts.info.get("license") or "")


def _figure(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "–"


def _text(value: object) -> str:
    """A text from a file in one line, with the signs of Markdown escaped."""
    return "" if value is None else MARKUP.sub(r"\\\1", shown_line(str(value), MAX_TEXT))


_USES = f"""## Uses

### Intended use

{BLANK}

### Out of scope

{BLANK}
"""

_RISKS = f"""## Risks and limits

{BLANK}

A generator draws what resembles its data, also what is false or one-sided in them. A picture of a person shows nobody, and can
still look like somebody.
"""

_MARKS = """## Marks of generated pictures

stylert writes into each picture a recipe which says that it is AI-generated. With a key it also signs each picture by a C2PA
manifest. Both can be removed from a file.
"""

_PIXELS = """
The images themselves carry a mark of {bits} bits{psnr}, which whoever has its detector reads with `stylert watermark detect`. It survives
some edits, and not all of them. Data, procedure and length above are those of the network before it was marked.
"""
