"""The measurements of marks, as values for JSON: likeness, edits, runtimes, attackers, images without the mark, and FD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from stylert.benchmarks.tools.watermark_edits import CLEAN, JPEG, edited, edits
from stylert.benchmarks.tools.watermark_marks import Marked, drawn, findings
from stylert.benchmarks.tools.watermark_seeds import TableSeeds
from stylert.core.images.similarity import psnr_each
from stylert.models.stylegan2.networks import Generator as Network
from stylert.runtime.backends import backend as backend_named
from stylert.runtime.watermark.detection import Detector, Finding
from stylert.runtime.watermark.false_positives import matches_needed
from stylert.train.metrics.evaluation_inputs import EvaluationInputs
from stylert.train.metrics.evaluator import Evaluator
from stylert.train.metrics.metric import Metric

PRECISIONS, BACKENDS = ("fp32", "fp16", "bf16", "int8"), ("onnxruntime", "openvino", "mnn")
RATE, COARSE_RATE = 1e-6, 1e-2
TRUNCATED = 0.7
#: Bound of one difference in an attacker's average, in levels.
ATTACKER_BOUND = 12

Row = dict[str, Any]


def likeness(networks: Sequence[Marked], plain: Path, seeds: TableSeeds) -> list[Row]:
    """The PSNR of marked images to their unmarked twins, in dB."""
    rows = []
    for network in networks:
        row: Row = {"mark": network.name, "matches needed": matches_needed(network.bits, RATE)}
        for psi in (1.0, TRUNCATED):
            psnr = psnr_each(drawn(network.bundle, seeds.judged, psi=psi), drawn(plain, seeds.judged, psi=psi))
            row |= {f"mean at psi {psi:g}": float(psnr.mean()), f"worst at psi {psi:g}": float(psnr.min())}
        rows.append(row)
    return rows


def edit_rows(networks: Sequence[Marked], seeds: TableSeeds) -> list[Row]:
    """Each edit, and images at a lower psi, with a cell for each mark."""
    images = [drawn(network.bundle, seeds.judged) for network in networks]
    rows = [{"edit": name, "marks": edit_cells(networks, images, name, seeds.judged)} for name in edits()]
    truncated = [drawn(network.bundle, seeds.judged, psi=TRUNCATED) for network in networks]
    for name, edit in ((f"psi {TRUNCATED:g}", CLEAN), (f"psi {TRUNCATED:g}, {JPEG}", JPEG)):
        rows.append({"edit": name, "marks": edit_cells(networks, truncated, edit, seeds.judged)})
    return rows


def runtime_rows(networks: Sequence[Marked], seeds: TableSeeds) -> list[Row]:
    """Each runtime of this machine and each precision, clean and after JPEG 75, with a cell for each mark."""
    rows = []
    for name in BACKENDS:
        chosen = backend_named(name)
        if chosen.unavailable_reason() is not None:
            continue
        for precision in (p for p in PRECISIONS if p in chosen.facts.precisions):
            images = [drawn(network.bundle, seeds.judged, precision, backend=name) for network in networks]
            for edit in (CLEAN, JPEG):
                cells = edit_cells(networks, images, edit, seeds.judged)
                rows.append({"runtime": name, "precision": precision, "edit": edit, "marks": cells})
    return rows


def attacker_rows(network: Marked, plain: Path, seeds: TableSeeds, counts: Sequence[int]) -> list[Row]:
    """Somebody who averages images of the network subtracts the average from marked images, or adds it to unmarked ones."""
    marked, victims = drawn(network.bundle, seeds.judged), drawn(plain, seeds.judged)
    owned, owned_unmarked = drawn(network.bundle, seeds.attacker), drawn(plain, seeds.attacker_unmarked)
    rows = []
    for count in counts:
        alone = mean_difference(owned[:count])
        for pattern, has_unmarked in ((alone, False), (alone - mean_difference(owned_unmarked[:count]), True)):
            row: Row = {"images": count, "as many unmarked": has_unmarked}
            for name, images, sign in (("removed", marked, -1), ("forged", victims, 1)):
                changed = (images + sign * pattern).round().clip(0, 255).astype(np.uint8)
                row[name] = cell(findings(network.detector, changed)) | {"psnr": float(psnr_each(changed, images).mean())}
            rows.append(row)
    return rows


def chance_rows(detector: Detector, groups: Mapping[str, np.ndarray], seeds: range) -> list[Row]:
    """How well images without the mark match the key: each group of images as it is, and after JPEG 75."""
    rows = []
    for name, images in groups.items():
        for edit in (CLEAN, JPEG):
            found = edited_findings(detector, images, edit, seeds)
            matched = np.array([finding.matched for finding in found])
            row: Row = {"images": name, "edit": edit, "number": len(matched), "most": int(matched.max())}
            row |= {"mean": float(matched.mean()), "variance": float(matched.var())}
            row |= {f"found at {rate:g}": sum(f.is_marked(rate) for f in found) for rate in (COARSE_RATE, RATE)}
            rows.append(row)
    return rows


def frechet_distances(networks: Mapping[str, Network], real: Path, count: int) -> dict[str, float]:
    """FD-EffNetLite0 of `count` images of each network, with constant noise, to as many real ones."""
    evaluator = Evaluator([Metric.parse("fd", count)], EvaluationInputs(data=real, noise_mode="const"))
    return {name: float(*evaluator.evaluate(network).values()) for name, network in networks.items()}


def edit_cells(networks: Sequence[Marked], images: Sequence[np.ndarray], edit: str, seeds: range) -> list[Row]:
    """For each mark the bits that are read from its images after an edit."""
    pairs = zip(networks, images, strict=True)
    return [cell(edited_findings(network.detector, its_images, edit, seeds)) for network, its_images in pairs]


def edited_findings(detector: Detector, images: np.ndarray, edit: str, seeds: range) -> list[Finding]:
    """The findings of images after an edit. The seed of an image decides the random part of its edit."""
    function = edits()[edit]
    return findings(detector, (edited(image, function, seed) for image, seed in zip(images, seeds, strict=False)))


def cell(found: Sequence[Finding]) -> Row:
    """The share of bits that are read and of images that are found, in percent. None is found where the key has too few bits."""
    read = 100 * float(np.mean([finding.matched / finding.bits for finding in found]))
    return {"read": read, "found": 100 * float(np.mean([finding.is_marked(RATE) for finding in found]))}


def mean_difference(images: np.ndarray) -> np.ndarray:
    """The mean of the bounded fine differences of images `[N, H, W, 3]`: an estimate of the pattern that they share, `[H, W, 3]`."""
    total = np.zeros(images.shape[1:])
    for image in images:
        smooth = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(1.5)), np.float64)
        total += (image - smooth).clip(-ATTACKER_BOUND, ATTACKER_BOUND)
    return total / len(images)
