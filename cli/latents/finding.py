"""Runs the commands that find directions: each reads a checkpoint and writes a file of directions. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from stylert.cli.console import print_line, print_table
from stylert.core.errors import InputError, shown
from stylert.core.files.digests import sha256_of
from stylert.core.files.outputs import check_output
from stylert.core.seeds import z_from_seeds
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.importers.import_checkpoint import read_stylegan2_generator
from stylert.models.stylegan2.style_space import map_z, style_index, style_map, style_name, style_slices
from stylert.runtime.bundle import Bundle
from stylert.runtime.input_checks import one_hot
from stylert.runtime.steering.directions_file import Direction, Directions, check_names, read_directions, write_directions
from stylert.runtime.steering.score_files import ScoredImages, read_scores, scored_pictures
from stylert.runtime.steering.supervised import score_direction, style_correlations
from stylert.runtime.steering.unsupervised import covariance, principal_components, sefa, spreads
from stylert.runtime.style_levels import parse_levels

#: The stage, for the refusal of other networks
PURPOSE = "stylert directions"
#: Latents of random z from which the spread of w is measured
SAMPLES = 10_000


def find_sefa(checkpoint: Path, out: Path, levels: str | None, count: int) -> None:
    """Write the directions of SeFa in the styles of `levels`."""
    check_output(out, "directions", (checkpoint,))
    weights = read_stylegan2_generator(checkpoint, PURPOSE)
    cfg, latents = weights.config, _latents(weights, levels)
    _check_count(count, cfg.w_dim)
    affine, places = style_map(cfg, weights.arrays), style_slices(cfg)
    # The torgb layers share their latent with a convolution, but for the last one.
    rows = [
        affine.weight[places[spec.name]]
        for spec in cfg.layers()
        if spec.ws_index in latents and (spec.kind == "conv" or spec.ws_index == cfg.num_ws - 1)
    ]
    vectors, shares = sefa(np.concatenate(rows), count)
    spread = spreads(vectors, covariance(_random_w(weights, SAMPLES)))
    found = {
        f"sefa{i}": Direction("w", vector * unit, latents, "SeFa", {"share": float(share)})
        for i, (vector, unit, share) in enumerate(zip(vectors, spread, shares, strict=True))
    }
    _write(out, checkpoint, weights, found)


def find_principal_components(checkpoint: Path, out: Path, levels: str | None, count: int, samples: int) -> None:
    """Write the principal components of w."""
    check_output(out, "directions", (checkpoint,))
    weights = read_stylegan2_generator(checkpoint, PURPOSE)
    latents = _latents(weights, levels)
    _check_count(count, weights.config.w_dim)
    w = _random_w(weights, samples)
    vectors, shares = principal_components(w, count)
    spread = spreads(vectors, covariance(w))
    found = {
        f"pc{i}": Direction("w", vector * unit, latents, "PCA", {"share": float(share)})
        for i, (vector, unit, share) in enumerate(zip(vectors, spread, shares, strict=True))
    }
    _write(out, checkpoint, weights, found)


def find_by_scores(checkpoint: Path, scores: Path, out: Path, levels: str | None, styles: int) -> None:
    """Write a direction for each score of a CSV file, or the `styles` single styles that tell the score best."""
    check_output(out, "directions", (checkpoint, scores))
    images, weights = read_scores(scores), read_stylegan2_generator(checkpoint, PURPOSE)
    _write(out, checkpoint, weights, _scored(weights, images, levels, styles))


def find_by_pictures(
    checkpoint: Path, bundle_path: Path, name: str, with_it: Path, without: Path, out: Path, levels: str | None, styles: int
) -> None:
    """Write the direction that leads from the pictures of one folder to those of another."""
    check_output(out, "directions", (checkpoint,))
    check_names([name])
    weights, bundle = read_stylegan2_generator(checkpoint, PURPOSE), Bundle.load(bundle_path)
    if bundle.provenance.get("checkpoint_sha256") != sha256_of(checkpoint):
        raise InputError(f"{checkpoint} is not the checkpoint that {bundle_path} was exported from")
    images = scored_pictures(bundle, name, with_it, without)
    _write(out, checkpoint, weights, _scored(weights, images, levels, styles))


def name_styles(checkpoint: Path, names: Sequence[str], out: Path) -> None:
    """Write one direction for each named style, such as `b16.conv1.42`."""
    check_output(out, "directions", (checkpoint,))
    weights = read_stylegan2_generator(checkpoint, PURPOSE)
    places = [style_index(weights.config, name) for name in names]
    by_name = {style_name(weights.config, place): place for place in places}  # b4.conv1.00 is b4.conv1.0
    check_names(by_name)
    _write(out, checkpoint, weights, _style_directions(weights, by_name, {}, covariance(_random_w(weights, SAMPLES))))


def join(files: Sequence[Path], out: Path) -> None:
    """Write the directions of several files into one."""
    check_output(out, "directions", files)
    parts = [read_directions(file) for file in files]
    by_name: dict[str, Direction] = {}
    for file, part in zip(files, parts, strict=True):
        if part.network != parts[0].network:
            raise InputError(f"{file} belongs to the network {part.network[:12]}, and {files[0]} to {parts[0].network[:12]}")
        if common := sorted(set(by_name) & set(part.by_name)):
            raise InputError(f"{file} has a direction {common[0]}, as a file before it")
        by_name |= part.by_name
    joined = replace(parts[0], by_name=by_name)
    write_directions(out, joined)
    show(joined)
    print_line(f"wrote {out}")


def show(directions: Directions) -> None:
    """Print directions as a table."""
    print_table(
        f"directions of the network {directions.network[:12]}",
        ["<name", "<moves", "<found by", "<"],
        [
            (
                name,
                f"latents {_ranges(d.latents)}" if d.space == "w" else "styles",
                d.method,
                ", ".join(f"{fact} {value:.4g}" for fact, value in d.facts.items()),
            )
            for name, d in directions.by_name.items()
        ],
    )


def labels_of(images: ScoredImages, c_dim: int) -> np.ndarray | None:
    """The labels `[N, c_dim]` of scored images, or None for a network without labels.

    Raises:
        InputError: The network takes labels and an image has none, or the other way round.
    """
    if c_dim:
        return np.concatenate([one_hot(None if label is None else [label], 1, c_dim) for label in images.labels])  # type: ignore[list-item]
    if any(label is not None for label in images.labels):
        raise InputError("this network takes no labels")
    return None


def _scored(weights: GeneratorWeights, images: ScoredImages, levels: str | None, styles: int) -> dict[str, Direction]:
    """The directions of scores: in w, or with `styles` as so many single styles for each score."""
    cfg = weights.config
    latents = _latents(weights, levels)
    if styles and levels is not None:
        raise InputError("--styles finds styles of single layers, so it takes no --levels")
    if styles:
        longest = max((style_name(cfg, place.stop - 1) for place in style_slices(cfg).values()), key=len)
        check_names([f"{name}.{longest}" for name in images.scores])
    w = map_z(cfg, weights.arrays, z_from_seeds(images.seeds, cfg.z_dim), labels_of(images, cfg.c_dim))
    w_covariance = covariance(_random_w(weights, SAMPLES))
    found: dict[str, Direction] = {}
    for name, scores in images.scores.items():
        scored = np.isfinite(scores)
        try:
            if styles:
                found |= _best_styles(weights, name, w[scored], scores[scored], styles, w_covariance)
                continue
            fit = score_direction(w[scored], scores[scored])
        except InputError as e:
            raise InputError(f"{shown(name)}: {e}") from None
        unit = spreads(fit.vector[None], w_covariance)[0]
        facts = {"correlation": fit.correlation, "images": float(scored.sum())}
        found[name] = Direction("w", fit.vector * unit, latents, "scores", facts)
    return found


def _best_styles(
    weights: GeneratorWeights, name: str, w: np.ndarray, scores: np.ndarray, count: int, w_covariance: np.ndarray
) -> dict[str, Direction]:
    correlations = style_correlations(w, scores, style_map(weights.config, weights.arrays).weight)
    best = np.argsort(-np.abs(correlations), kind="stable")[:count]
    places = {f"{name}.{style_name(weights.config, int(i))}": int(i) for i in best}
    return _style_directions(weights, places, {i: float(correlations[i]) for i in places.values()}, w_covariance)


def _style_directions(
    weights: GeneratorWeights, places: dict[str, int], correlations: dict[int, float], w_covariance: np.ndarray
) -> dict[str, Direction]:
    """Directions of single styles. Those with a negative correlation move down, so that the score rises."""
    affine = style_map(weights.config, weights.arrays)
    found = {}
    for name, i in places.items():
        vector = np.zeros(len(affine.bias), np.float32)
        unit = spreads(affine.weight[i][None].astype(np.float64), w_covariance)[0]
        vector[i] = unit if correlations.get(i, 1.0) >= 0 else -unit
        facts = {"correlation": correlations[i]} if i in correlations else {}
        found[name] = Direction("styles", vector, method="scores" if facts else "style", facts=facts)
    return found


def _random_w(weights: GeneratorWeights, samples: int) -> np.ndarray:
    """Latents of random z, of all classes alike. The same ones each time."""
    cfg, rng = weights.config, np.random.default_rng(0)
    z = rng.standard_normal((samples, cfg.z_dim), np.float32)
    labels = None
    if cfg.c_dim:
        labels = np.zeros((samples, cfg.c_dim), np.float32)
        labels[np.arange(samples), rng.integers(cfg.c_dim, size=samples)] = 1
    return map_z(cfg, weights.arrays, z, labels)


def _latents(weights: GeneratorWeights, levels: str | None) -> tuple[int, ...]:
    num_ws = weights.config.num_ws
    return tuple(range(num_ws)) if levels is None else tuple(parse_levels(levels, num_ws))


def _check_count(count: int, w_dim: int) -> None:
    if count > w_dim:
        raise InputError(f"w of this network has {w_dim} directions, not {count}")


def _write(out: Path, checkpoint: Path, weights: GeneratorWeights, found: dict[str, Direction]) -> None:
    cfg = weights.config
    style_channels = sum(spec.in_channels for spec in cfg.layers())
    directions = Directions(sha256_of(checkpoint), cfg.num_ws, cfg.w_dim, style_channels, found)
    write_directions(out, directions)
    show(directions)
    print_line(f"wrote {out}")


def _ranges(latents: Sequence[int]) -> str:
    """Latents as text, such as `0-3,7`."""
    from stylert.core.seeds import format_seeds

    return format_seeds(latents)
