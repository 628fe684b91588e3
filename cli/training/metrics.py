"""Runs `stylert metrics`: computes metrics of a checkpoint and prints them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stylert.cli.app import split_list
from stylert.cli.console import print_table, progress
from stylert.core.errors import InputError, missing_extra
from stylert.core.files.cache import cache_folder
from stylert.core.files.digests import sha256_of
from stylert.models.checkpoint import generator_module
from stylert.models.importers.import_checkpoint import read_stylegan2_generator

if TYPE_CHECKING:
    from stylert.models.stylegan2.generator import NoiseMode


def run_metrics(
    checkpoint: Path,
    data: Path | None,
    floor: Path | None,
    images: int,
    names: str,
    inception: Path | None = None,
    lpips: str | None = None,
    noise: str = "random",
) -> dict[str, Any]:
    """Compute metrics of a checkpoint and print them.

    Args:
        checkpoint: Any file that `stylert export` reads.
        data: Real images.
        floor: Other real images. The distances between both sets of real images are printed beside the checkpoint's.
        images: Number of images, for metrics whose name holds none.
        names: Comma-separated metrics, such as `fd5k,ppl_w`.
        inception: Weights of the FID Inception network.
        lpips: Comma-separated files with the weights of VGG16 and LPIPS.
        noise: Noise of the generated images: random, const or none.

    Returns:
        The metrics as JSON values.

    Raises:
        InputError: A metric is unknown, has too few images, or lacks the files that it needs.
    """
    try:
        from stylert.train.metrics.evaluation_inputs import EvaluationInputs
        from stylert.train.metrics.evaluator import Evaluator
        from stylert.train.metrics.metric import Metric
    except ImportError:
        raise missing_extra("PyTorch", "train") from None
    chosen = list(dict.fromkeys(Metric.parse(name, images) for name in split_list(names) or []))
    if not chosen:
        raise InputError("--metrics names none")
    files = tuple(Path(part) for part in split_list(lpips) or [])
    with progress() as bar:
        inputs = EvaluationInputs(data, floor, inception, files, cache_folder() / "features", cast("NoiseMode", noise))
        evaluator = Evaluator(chosen, inputs, bar)
        values = evaluator.evaluate(generator_module(read_stylegan2_generator(checkpoint, "stylert metrics")))
        floors = evaluator.floor()
    counts = sorted({m.images for m in chosen})
    title = f"{', '.join(map(str, counts))} generated images with {noise} noise"
    title += f" beside {evaluator.real_images} real ones" if evaluator.real_images else ""
    print_table(
        title,
        ["<metric", "generated", *(["real (floor)"] if floors else [])],
        [(k, f"{v:.5g}", *([f"{floors[k]:.5g}" if k in floors else ""] if floors else [])) for k, v in values.items()],
    )
    facts: dict[str, Any] = {
        "checkpoint_sha256": sha256_of(checkpoint),
        "images": [max(counts), evaluator.real_images],
        "noise": noise,
        "metrics": values,
    }
    return facts | ({"floor": floors} if floors else {})
