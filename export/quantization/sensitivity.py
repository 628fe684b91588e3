"""Which layers stay out of 8 bits: those with which the images keep a wanted PSNR for the least arithmetic.

Errors of different layers are nearly uncorrelated, so their powers add up in an image. Each layer is measured alone, once, and
those that err most for what 8 bits save in them are taken out until what is left, measured together, is small enough. In
practice that is from the smallest image on: every layer errs about as much, and each next one has four times the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime as ort

from stylert.core.image_similarity import psnr_each
from stylert.export.plan import Int8Steps, LayerPlan, NetworkPlan, plain_plan, without
from stylert.export.synthesis import synthesis_model
from stylert.models.checkpoint import GeneratorWeights
from stylert.models.stylegan2.config import LayerSpec

Progress = Callable[[int, int], None]

#: What is measured must lie so many standard deviations above the wanted PSNR, of the difference between its mean and that over
#: `OTHERS` seeds: who verifies on those finds the promise kept, 49 times of 50.
MARGIN, OTHERS = 2.0, 32

#: What 8 bits save in an upsampling layer whose FIR they cover, too, of what they save in another, for as many multiplications.
#: OpenVINO, 2.4 GMAC each, bfloat16 to 8 bits: 15.7 to 7.9 ms at 64 px with the FIR, 8.6 to 3.2 ms for a plain one at 32 px.
FIR_WORTH = 1.5

#: Multiplications of a plain layer for which 8 bits save as much as for one value that torgb reads (OpenVINO: 63 million values at
#: 1024 px, 6.8 ms; 2.4 GMAC at 32 px as above).
RGB_WORTH = 50

#: Samples on which a layer is measured alone: enough for its place among the others.
ALONE = 4


@dataclass(frozen=True)
class Sensitivity:
    """`kept`: layer names left in higher precision, and the PSNR in dB that each alone costs; `psnr_db` with the others in 8 bits.

    `reached` is whether `psnr_db` exceeds what was asked for by a margin for other seeds than those measured.
    """

    kept: Mapping[str, float]
    psnr_db: float
    reached: bool
    evaluations: int


def layers_left_out(
    weights: GeneratorWeights,
    plan: NetworkPlan,
    latents: Sequence[np.ndarray],
    reference: np.ndarray,
    min_psnr_db: float,
    progress: Progress | None = None,
) -> Sensitivity:
    """Search over the quantised layers of `plan`; `latents` are ws `[1, num_ws, w_dim]`, at least two, and `reference` their
    images without 8 bits (`reference_images`).
    """
    worth = {s.name: _worth(s, plan.layer(s)) for s in weights.config.layers()}
    plan = _fast_here(plan)
    quantised = [name for name, layer in plan.layers.items() if layer.eight_bit is not None]
    evaluations, total = 0, 2 + len(quantised)

    def decibels(left_out: Sequence[str], samples: int = len(latents)) -> np.ndarray:
        nonlocal evaluations
        images = _images(synthesis_model(weights, plan=without(plan, left_out)), latents[:samples])
        evaluations += 1
        if progress is not None:
            progress(min(evaluations, total), total)
        return psnr_each(images, reference[:samples])

    every = decibels([])
    if not quantised or _enough(every, min_psnr_db):
        if progress is not None:
            progress(total, total)
        return Sensitivity({}, float(every.mean()), _enough(every, min_psnr_db), evaluations)
    alone = {name: float(decibels([other for other in quantised if other != name], ALONE).mean()) for name in quantised}
    worst_first = sorted(quantised, key=lambda name: -(10 ** (-alone[name] / 10)) / worth[name])
    kept = _predicted(alone, worst_first, float(every.mean()), min_psnr_db)
    while True:
        measured = decibels(worst_first[:kept])
        if _enough(measured, min_psnr_db) or kept == len(quantised):
            break
        kept += 1
    if progress is not None:
        progress(total, total)
    return Sensitivity(
        {name: round(alone[name], 2) for name in worst_first[:kept]},
        float(measured.mean()),
        _enough(measured, min_psnr_db),
        evaluations,
    )


def keeps(weights: GeneratorWeights, plan: NetworkPlan, latents: Sequence[np.ndarray], min_psnr_db: float) -> bool:
    """Whether images of a plan have the PSNR by a margin for other seeds than those of `latents`."""
    images = _images(synthesis_model(weights, plan=_fast_here(plan)), latents)
    return _enough(psnr_each(images, reference_images(weights, latents)), min_psnr_db)


def reference_images(weights: GeneratorWeights, latents: Sequence[np.ndarray]) -> np.ndarray:
    """The images of the float32 network, uint8 `[N, H, W, C]`; every plan is one and the same network."""
    return _images(synthesis_model(weights, plan=plain_plan(weights.config, "phases")), latents)


def same_rounding(first: NetworkPlan, second: NetworkPlan) -> bool:
    """Whether two plans of one network round the same numbers to the same 8 bits, so that what is found of one holds for both."""
    return _fast_here(first) == _fast_here(second)


def _worth(spec: LayerSpec, layer: LayerPlan) -> float:
    """What 8 bits save in a layer, in multiplications of a plain one."""
    if spec.kind == "torgb":
        return RGB_WORTH * spec.in_channels * spec.resolution**2
    steps = layer.eight_bit
    fir = spec.up == 2 and layer.form == "transposed" and isinstance(steps, Int8Steps) and steps.output is not None
    return spec.macs * (FIR_WORTH if fir else 1)


def _fast_here(plan: NetworkPlan) -> NetworkPlan:
    """The same numbers in the forms that ONNX Runtime has in 8 bits, and where in the graph they are scaled left open."""
    layers = {}
    for name, layer in plan.layers.items():
        steps = layer.eight_bit
        if isinstance(steps, Int8Steps):
            steps = replace(steps, scaled=False)
        layers[name] = LayerPlan("phases" if layer.form == "transposed" else layer.form, layer.migration, steps)
    return NetworkPlan(layers)


def _predicted(alone: Mapping[str, float], worst_first: Sequence[str], every_db: float, wanted_db: float) -> int:
    """How many layers to take out if powers add up, scaled so that they do for all layers together; at least one."""
    powers = np.array([10 ** (-alone[name] / 10) for name in worst_first])
    share = 10 ** (-every_db / 10) * (1 - np.cumsum(powers) / powers.sum())  # what is left after taking out 1, 2, …
    return int(np.searchsorted(-share, -(10 ** (-wanted_db / 10)))) + 1


def _enough(each_db: np.ndarray, wanted_db: float) -> bool:
    margin = MARGIN * each_db.std(ddof=1) * np.sqrt(1 / len(each_db) + 1 / OTHERS) if len(each_db) > 1 else 0.0
    return bool(each_db.mean() - margin >= wanted_db)


def _images(model: onnx.ModelProto, latents: Sequence[np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["image"], {"ws": ws})[0] for ws in latents])
