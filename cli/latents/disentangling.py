"""Runs disentanglement: reads and checks all inputs, measures, and writes the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stylert.benchmarks.report.disentanglement import check_page, write_page
from stylert.cli.app import split_list
from stylert.cli.console import print_line, print_table, progress
from stylert.cli.latents.finding import labels_of
from stylert.core.errors import InputError, missing_extra, shown
from stylert.core.files.digests import sha256_of
from stylert.core.files.outputs import check_output, is_same_file, write_json
from stylert.core.numerals import read_number
from stylert.core.progress import Progress
from stylert.core.seeds import z_from_seeds
from stylert.models.checkpoint import GeneratorWeights, generator_module
from stylert.models.importers.import_checkpoint import read_stylegan2_generator
from stylert.runtime.steering.directions_file import Directions, read_directions
from stylert.runtime.steering.moves import Move
from stylert.runtime.steering.score_files import ScoredImages, read_scores
from stylert.runtime.steering.supervised import MIN_SCORES

if TYPE_CHECKING:
    from stylert.models.features.extractors import Extractor
    from stylert.models.features.perceptual import Distance
    from stylert.train.disentanglement.attributes import AttributeReader, PartReader, ScoreReader
    from stylert.train.disentanglement.leakage import Effect, LatentMove
    from stylert.train.disentanglement.measurement import MeasuredAttribute, Measurement, MeasureSettings

#: The stage, for the refusal of other networks
PURPOSE = "stylert disentanglement"
#: Directions of one report: those that are measured without --names, and the most
FIRST, MOST = 10, 100
#: Images whose scores fit the readers, at most. Their features then have 200 MB.
MOST_SCORES = 20_000
BATCH = 16


@dataclass(frozen=True)
class DisentanglementOptions:
    """The options of the command. The texts of `stylert disentanglement --help` describe them."""

    checkpoint: Path
    out: Path
    directions: Path | None
    names: tuple[str, ...] | None
    scores: Path | None
    data: Path | None
    images: int
    paths: int
    edits: int
    strengths: str
    lpips: tuple[Path, ...]
    seed: int
    json: Path | None


def report_disentanglement(options: DisentanglementOptions) -> None:
    """Measure a checkpoint, and write the page and perhaps the JSON document.

    Raises:
        StylertError: An input cannot be read or does not belong to the network, or a result cannot be written.
    """
    try:
        from stylert.train.disentanglement.measurement import MeasureSettings, measure
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    strengths = _strengths(options.strengths)
    inputs = (options.checkpoint, options.directions, options.scores, options.data, *options.lpips)
    check_output(options.out, "HTML", inputs)
    check_output(options.json, "JSON", inputs)
    if options.json is not None and is_same_file(options.out, options.json):
        raise InputError("--out and --json name the same file")
    check_page()
    if options.names is not None and options.directions is None:
        raise InputError("--names chooses of a file of directions: give it with --directions")
    if not options.paths and options.directions is None and options.scores is None and options.data is None:
        raise InputError("nothing to measure: --paths is 0, and there are no --directions, --scores or --data")
    directions = None if options.directions is None else read_directions(options.directions)
    scored = None if options.scores is None else _scores(options.scores)
    weights = read_stylegan2_generator(options.checkpoint, PURPOSE)
    network = sha256_of(options.checkpoint)
    labels = None if scored is None else labels_of(scored, weights.config.c_dim)
    moves = [] if directions is None else _moves(directions, options, weights, network, scored)
    settings = MeasureSettings(options.images, options.paths, options.edits, strengths, options.seed)
    generator = generator_module(weights)
    with progress() as report:
        readers: list[AttributeReader] = []
        if options.data is not None:  # before the features of scored images, which take longer
            readers.append(_part_reader(options.data, weights, report))
        distance, extractor = _networks(options.lpips, scored is not None)
        if scored is not None and extractor is not None:
            readers.insert(0, _score_reader(extractor, generator, scored, labels, report))
        measurement = measure(generator, distance, readers, moves, settings, report)
    document = _document(options, weights, network, settings, distance, measurement)
    write_page(document, [effect.pictures for effect in measurement.effects], options.out)
    if options.json is not None:
        write_json(options.json, document)
    _show(document)
    print_line(f"wrote {options.out}")


def _strengths(text: str) -> tuple[float, ...]:
    try:
        strengths = Move("d", None, tuple(read_number(part) for part in split_list(text) or [])).strengths
    except ValueError:
        raise InputError(f"--strengths are numbers, such as -2,-1,0,1,2, not {shown(text)}") from None
    if not any(strengths):
        raise InputError("--strengths needs one that is not 0")
    return tuple(sorted({0.0, *strengths}))


def _scores(path: Path) -> ScoredImages:
    """Scores that a reader can be fitted to."""
    scored = read_scores(path)
    if len(scored.seeds) > MOST_SCORES:
        raise InputError(f"{path} scores {len(scored.seeds):,} images; a report takes up to {MOST_SCORES:,}")
    for name, values in scored.scores.items():
        finite = values[np.isfinite(values)]
        if len(finite) < MIN_SCORES or finite.min() == finite.max():
            raise InputError(f"{path}: {shown(name)} needs {MIN_SCORES} scores or more, and not all the same")
    return scored


def _moves(
    directions: Directions,
    options: DisentanglementOptions,
    weights: GeneratorWeights,
    network: str,
    scored: ScoredImages | None,
) -> list[LatentMove]:
    """The directions to measure. A direction is meant for the score of its name, or of the name before its style."""
    from stylert.train.disentanglement.leakage import LatentMove

    cfg = weights.config
    sizes = (cfg.num_ws, cfg.w_dim, sum(spec.in_channels for spec in cfg.layers()))
    if directions.network != network or sizes != (directions.num_ws, directions.w_dim, directions.style_channels):
        raise InputError(
            f"the directions of {options.directions} belong to the network {directions.network[:12]}, and {options.checkpoint} "
            f"is {network[:12]}: find directions of this checkpoint"
        )
    names = tuple(directions.by_name)[:FIRST] if options.names is None else options.names
    if not 1 <= len(names) <= MOST:
        raise InputError(f"a report has 1 to {MOST} directions, not {len(names)}")
    known = () if scored is None else tuple(scored.scores)
    moves = []
    for name in names:
        direction = directions[name]
        ws = np.zeros((directions.num_ws, directions.w_dim), np.float32)
        if direction.space == "w":
            ws[list(direction.latents)] = direction.vector
        target = next((score for score in known if name == score), None)
        if target is None and direction.method == "scores":
            target = next((score for score in known if name.startswith(f"{score}.")), None)
        moves.append(LatentMove(name, ws, direction.vector if direction.space == "styles" else None, target))
    return moves


def _networks(lpips: Sequence[Path], features: bool) -> tuple[Distance, Extractor | None]:
    """The perceptual distance, and the extractor that reads scores, if it is needed."""
    from stylert.models.features.extractors import EffNetLite0
    from stylert.models.features.perceptual import EffNetLite0Distance, Lpips

    if lpips:
        return Lpips(lpips), EffNetLite0() if features else None
    extractor = EffNetLite0()
    return EffNetLite0Distance(extractor), extractor


def _part_reader(data: Path, weights: GeneratorWeights, report: Progress) -> PartReader:
    from stylert.train.data.dataset import ImageDataset
    from stylert.train.disentanglement.attributes import PartReader
    from stylert.train.metrics.coverage import read_layer_names
    from stylert.train.metrics.evaluation_inputs import EvaluationInputs, SharedInputs
    from stylert.train.metrics.metric import Metric

    cfg = weights.config
    read_layer_names(data, 0)  # that there is a parts.json is known before all images are decoded
    shape, found = (cfg.img_channels, cfg.height, cfg.width), ImageDataset(data, memory=0).images.shape[1:]
    if found != shape:
        raise InputError(
            f"parts are read at one size: the generator draws {list(shape)}, the images of {data} are {list(found)}"
        )
    shared = SharedInputs([Metric("ls_w", 4)], EvaluationInputs(data), report)
    return PartReader(shared.classifier, read_layer_names(data, shared.parts.shape[1]), shared.held_out)


def _score_reader(
    extractor: Extractor, generator: Any, scored: ScoredImages, labels: np.ndarray | None, report: Progress
) -> ScoreReader:
    """A reader of scores, fitted to the images of their seeds."""
    import torch

    from stylert.core.images.grids import as_uint8
    from stylert.train.disentanglement.attributes import ScoreReader

    features = []
    with torch.no_grad():
        for begin in range(0, len(scored.seeds), BATCH):
            rows = slice(begin, begin + BATCH)
            z = torch.from_numpy(z_from_seeds(scored.seeds[rows], generator.cfg.z_dim))
            images = generator(z, None if labels is None else torch.from_numpy(labels[rows]))
            features.append(extractor(as_uint8(images.numpy())))
            report("scored images", begin + len(images), len(scored.seeds))
    return ScoreReader(extractor, np.concatenate(features), scored.scores)


def _document(
    options: DisentanglementOptions,
    weights: GeneratorWeights,
    network: str,
    settings: MeasureSettings,
    distance: Distance,
    measured: Measurement,
) -> dict[str, Any]:
    """The content of the JSON document, which the page shows."""
    cfg, attributes = weights.config, measured.attributes
    return {
        "checkpoint": options.checkpoint.name,
        "checkpoint_sha256": network,
        "network": {"resolution": cfg.resolution, "z_dim": cfg.z_dim, "w_dim": cfg.w_dim},
        "settings": {
            "images": settings.images,
            "paths": settings.paths,
            "edits": settings.edits,
            "strengths": list(settings.strengths),
            "seed": settings.seed,
            "distance": distance.name,
        },
        "path_length": measured.path_lengths,
        "separability": measured.separability,
        "counted": sum(a.counts for a in attributes),
        "attributes": [_attribute(a) for a in attributes],
        "directions": [_direction(effect, attributes) for effect in measured.effects],
    }


def _attribute(measured: MeasuredAttribute) -> dict[str, Any]:
    attribute = measured.attribute
    remark = "" if measured.counts else "too few images" if attribute.readable else "read badly"
    return {
        "name": attribute.name,
        "source": attribute.source,
        "correlation": attribute.correlation,
        "share": measured.share,
        "deviation": measured.deviation,
        "entropy": measured.entropies,
        "counts": measured.counts,
        "remark": remark,
    }


def _direction(effect: Effect, attributes: Sequence[MeasuredAttribute]) -> dict[str, Any]:
    """What a direction changes. `main` is the attribute that it is meant for, or else the one that it changes most."""
    from stylert.train.disentanglement.leakage import leakage

    names = [a.attribute.name for a in attributes]
    counts = np.array([a.counts for a in attributes], bool)
    ranked = [names[i] for i in np.argsort(-effect.sizes, kind="stable") if counts[i]]
    target = effect.move.target
    main = target
    if main is None and ranked:  # by mean change, as leakage counts it, and not by size
        main = names[int(np.argmax(np.where(counts, np.abs(effect.slopes), -1)))]
    moved = effect.strengths != 0
    is_read = main is not None and bool(counts[names.index(main)])
    return {
        "name": effect.move.name,
        "target": target,
        "main": main,
        "next": next((name for name in ranked if name != main), None),
        "leakage": leakage(effect, names.index(main), counts) if is_read and main is not None else None,
        "distance_per_strength": float((effect.distances[moved] / np.abs(effect.strengths[moved])).mean()),
        "strengths": effect.strengths.tolist(),
        "distances": effect.distances.tolist(),
        "slopes": dict(zip(names, effect.slopes.tolist(), strict=True)),
        "changes": dict(zip(names, effect.changes.T.tolist(), strict=True)),
        "sizes": dict(zip(names, effect.sizes.tolist(), strict=True)),
    }


def _show(document: dict[str, Any]) -> None:
    """Print the main figures."""
    if document["path_length"]:
        print_table(
            f"mean of {document['settings']['paths']} paths",
            ["<path length", document["settings"]["distance"]],
            [(name, f"{value:.5g}") for name, value in document["path_length"].items()],
        )
    if document["attributes"]:
        print_table(
            f"attributes of {document['settings']['images']} random images",
            ["<attribute", "with it", "H(Y|X) in z", "in w", "reader's correlation", "<"],
            [
                (
                    a["name"],
                    f"{100 * a['share']:.1f} %",
                    *("" if a["entropy"][space] is None else f"{a['entropy'][space]:.3f}" for space in ("z", "w")),
                    f"{a['correlation']:.2f}",
                    a["remark"],
                )
                for a in document["attributes"]
            ],
        )
        for space, value in document["separability"].items():
            print_line(f"linear separability in {space}: {value:.4g}, from {document['counted']} attributes")
    if document["directions"]:
        print_table(
            f"directions, per strength, mean of {document['settings']['edits']} images",
            ["<direction", "<changes", "by", "leakage", "<and also", "in size", "image distance"],
            [
                (
                    d["name"],
                    d["main"] or "",
                    "" if d["main"] is None else f"{d['slopes'][d['main']]:+.2f}",
                    "" if d["leakage"] is None else f"{d['leakage']:.2f}",
                    d["next"] or "",
                    "" if d["next"] is None else f"{d['sizes'][d['next']]:.2f}",
                    f"{d['distance_per_strength']:.4f}",
                )
                for d in document["directions"]
            ],
        )
