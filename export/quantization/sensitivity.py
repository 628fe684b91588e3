"""Sensitivity search: which layers stay out of 8 bits, so that the images reach a PSNR at the least cost in time.

The errors of different layers are nearly uncorrelated, so their powers add up in the image. The search measures each
layer alone, on ONNX Runtime. It then takes layers out of 8 bits until the others, measured together on the backend that
runs them, reach the PSNR. The first to go have the greatest error for the work that 8 bits save. In practice these are
the layers of the smallest images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from stylert.core.images.similarity import psnr_each
from stylert.core.progress import Progress
from stylert.export.network_plan import LayerPlan, NetworkPlan, float32_plan
from stylert.export.quantization.evaluation import runs_network_files, synthesize, synthesize_on
from stylert.export.synthesis import synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import LayerSpec

#: The measured mean must exceed the target by this many standard deviations of its difference to the mean over
#: `UNSEEN_SEEDS` other seeds. A verification on those seeds then confirms the target 49 times of 50.
MARGIN_SIGMAS, UNSEEN_SEEDS = 2.0, 32

#: Time that 8 bits save per multiplication in an upsampling layer with its FIR in 8 bits, relative to other
#: convolutions. docs/decisions/export-sensitivity-costs.md has the figures of both constants.
FIR_SAVING = 1.5

#: Multiplications of a convolution in which 8 bits save as much time as in one value that torgb reads.
RGB_SAVING = 50

#: Latents on which each layer is measured alone. They are enough to rank the layers.
SAMPLES_PER_LAYER = 4


#: The images of a plan on sample latents, uint8 `[N, H, W, C]`.
PlanImages = Callable[[NetworkPlan, Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Sensitivity:
    """The result of a search.

    Attributes:
        higher_precision: The layers to leave out of 8 bits, most sensitive first. Each has the PSNR of the images with
            only this layer in 8 bits, in dB.
        psnr_db: The PSNR with all other layers in 8 bits.
        target_met: Whether `psnr_db` exceeds the target by the margin for unseen seeds.
        evaluations: How many networks were measured.
    """

    higher_precision: Mapping[str, float]
    psnr_db: float
    target_met: bool
    evaluations: int


def find_sensitive_layers(
    weights: GeneratorWeights,
    plan: NetworkPlan,
    latents: Sequence[np.ndarray],
    reference: np.ndarray,
    target_db: float,
    progress: Progress | None = None,
    stage: str = "search 8-bit layers",
    plan_images: PlanImages | None = None,
) -> Sensitivity:
    """Search the quantised layers of a plan for those to leave out of 8 bits.

    Args:
        weights: The generator.
        plan: With every candidate in 8 bits.
        latents: At least two ws `[1, num_ws, w_dim]`.
        reference: Their images without 8 bits (`reference_images`).
        target_db: The mean PSNR to reach, in dB.
        progress: Called after each measurement, with `stage`.
        stage: The text that the progress shows.
        plan_images: The images of a plan on the backend that runs it (`plan_images_on`). By default ONNX Runtime makes
            them, from the numbers that the plan rounds.
    """
    evaluation_plan = _evaluation_plan(plan)
    evaluate = partial(_images_on_onnxruntime, weights)
    candidates = plan.quantized_layers

    def images_of_one(name: str) -> np.ndarray:
        others = [other for other in candidates if other != name]
        return evaluate(evaluation_plan.without_quantization(others), latents[:SAMPLES_PER_LAYER])

    return search_layers(
        {spec.name: _time_saved(spec, plan.layer(spec)) for spec in weights.config.layers() if spec.name in candidates},
        lambda left_out: (plan_images or evaluate)(plan.without_quantization(left_out), latents),
        images_of_one,
        reference,
        target_db,
        None if progress is None else partial(progress, stage),
    )


def search_layers(
    time_saved: Mapping[str, float],
    images_without: Callable[[Sequence[str]], np.ndarray],
    images_of_one: Callable[[str], np.ndarray],
    reference: np.ndarray,
    target_db: float,
    progress: Callable[[int, int], None] | None = None,
) -> Sensitivity:
    """The search itself, for any network.

    Args:
        time_saved: The candidates, and the time that 8 bits save in each. Only ratios count.
        images_without: The images with these layers out of 8 bits and the other candidates in 8 bits, uint8 `[N, H, W, C]`.
        images_of_one: The first images with one layer alone in 8 bits. At most `N`.
        reference: The images without 8 bits.
        target_db: The mean PSNR to reach, in dB.
        progress: Called after each measurement with the number of those done and of all.
    """
    candidates = list(time_saved)
    evaluations, total = 0, 2 + len(candidates)

    def report(done: int) -> None:
        if progress is not None:
            progress(min(done, total), total)

    def psnr_of(images: np.ndarray) -> np.ndarray:
        nonlocal evaluations
        evaluations += 1
        report(evaluations)
        return psnr_each(images, reference[: len(images)])

    psnr_of_all = psnr_of(images_without([]))
    if not candidates or _exceeds(psnr_of_all, target_db):
        report(total)
        return Sensitivity({}, float(psnr_of_all.mean()), _exceeds(psnr_of_all, target_db), evaluations)

    single_psnr = {name: float(psnr_of(images_of_one(name)).mean()) for name in candidates}
    by_sensitivity = sorted(candidates, key=lambda name: -_error_power(single_psnr[name]) / time_saved[name])

    single_powers = [_error_power(single_psnr[name]) for name in by_sensitivity]
    count = _predicted_count(single_powers, _error_power(float(psnr_of_all.mean())), _error_power(target_db))
    psnr = psnr_of(images_without(by_sensitivity[:count]))
    while not _exceeds(psnr, target_db) and count < len(candidates):
        count += 1
        psnr = psnr_of(images_without(by_sensitivity[:count]))
    report(total)
    return Sensitivity(
        {name: round(single_psnr[name], 2) for name in by_sensitivity[:count]},
        float(psnr.mean()),
        _exceeds(psnr, target_db),
        evaluations,
    )


def plan_images_on(weights: GeneratorWeights, backend_name: str, precision: str) -> PlanImages | None:
    """Makes the images of plans on the backend that ships, or None where it runs no ONNX files on this machine.

    fp8 is always judged on ONNX Runtime, by its numbers alone: no CPU computes in it.
    """
    if precision != "int8" or not runs_network_files(backend_name, precision):
        return None
    return lambda plan, latents: synthesize_on(backend_name, precision, synthesis_model(weights, plan=plan), latents)


def reaches_psnr(
    weights: GeneratorWeights,
    plan: NetworkPlan,
    latents: Sequence[np.ndarray],
    target_db: float,
    plan_images: PlanImages | None = None,
) -> bool:
    """Whether the images of a plan exceed a PSNR in dB by the margin for unseen seeds.

    `latents` are ws `[1, num_ws, w_dim]`, and `plan_images` is that of `find_sensitive_layers`.
    """
    images = (plan_images or partial(_images_on_onnxruntime, weights))(plan, latents)
    return _exceeds(psnr_each(images, reference_images(weights, latents)), target_db)


def reference_images(weights: GeneratorWeights, latents: Sequence[np.ndarray]) -> np.ndarray:
    """The images of the float32 network, uint8 `[N, H, W, C]`."""
    return synthesize(synthesis_model(weights, plan=float32_plan(weights.config, "phases")), latents)


def same_rounding(first: NetworkPlan, second: NetworkPlan) -> bool:
    """Whether two plans of one network round the same numbers in the same way. A search of one then holds for both."""
    return _evaluation_plan(first) == _evaluation_plan(second)


def _images_on_onnxruntime(weights: GeneratorWeights, plan: NetworkPlan, latents: Sequence[np.ndarray]) -> np.ndarray:
    """The images of the numbers that a plan rounds, in forms that ONNX Runtime runs in 8 bits."""
    return synthesize(synthesis_model(weights, plan=_evaluation_plan(plan)), latents)


def _time_saved(spec: LayerSpec, layer: LayerPlan) -> float:
    """The time that 8 bits save in a layer, in multiplications of a plain convolution."""
    if spec.kind == "torgb":
        return RGB_SAVING * spec.in_channels * spec.height * spec.width
    fir_in_8_bits = layer.form == "transposed" and spec.up == 2 and layer.int8 is not None and layer.int8.output is not None
    return spec.macs * (FIR_SAVING if fir_in_8_bits else 1)


def _evaluation_plan(plan: NetworkPlan) -> NetworkPlan:
    """A plan that rounds the same numbers in forms that ONNX Runtime runs in 8 bits, without folded modulation."""
    layers = {}
    for name, layer in plan.layers.items():
        quantization = layer.quantization if layer.int8 is None else replace(layer.int8, fold_modulation=False)
        form = "phases" if layer.form == "transposed" else layer.form
        layers[name] = LayerPlan(form, layer.migration, quantization)
    return NetworkPlan(layers, activation_scale=plan.activation_scale)


def _error_power(psnr_db: float) -> float:
    """The mean square error, relative to the peak."""
    return 10 ** (-psnr_db / 10)


def _predicted_count(single_powers: Sequence[float], power_of_all: float, target_power: float) -> int:
    """How many layers to leave out, the first ones of `single_powers`, if powers add up; at least one.

    The sum is scaled to the measured power of all layers together.
    """
    powers = np.array(single_powers)
    remaining = power_of_all * (1 - np.cumsum(powers) / powers.sum())  # after leaving out 1, 2, ... layers
    return int(np.searchsorted(-remaining, -target_power)) + 1


def _exceeds(psnr: np.ndarray, target_db: float) -> bool:
    """Whether the mean of the PSNRs of images exceeds the target by the margin for unseen seeds."""
    margin = 0.0
    if len(psnr) > 1:
        margin = MARGIN_SIGMAS * psnr.std(ddof=1) * np.sqrt(1 / len(psnr) + 1 / UNSEEN_SEEDS)
    return bool(psnr.mean() - margin >= target_db)
