"""Measures the layers of a restoration network on photographs, and makes the plans of float16 and int8 from that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx

from stylert.core.progress import Progress
from stylert.export.network_plan import power_of_two_scale
from stylert.export.quantization.calibration import INPUT_ESTIMATOR, MIN_CHANNELS, MIN_RESOLUTION, OUTPUT_ESTIMATOR
from stylert.export.quantization.evaluation import cpu_session
from stylert.export.quantization.range_estimators import Histogram
from stylert.export.quantization.sensitivity import Sensitivity, search_layers
from stylert.export.restoration.graph import PHOTO
from stylert.export.restoration.network import convolutions, peak_model, restoration_model
from stylert.export.restoration.plan import MAX_FLOAT16_SIGNAL, QuantizedConv, RestorationPlan
from stylert.models.restoration.checkpoints import RestorerWeights

#: Greatest signal of the measured photographs in float16, at most this part of the greatest that is not cut off. The rest is for
#: others, and for values in front of a leaky ReLU.
HEADROOM = 32
#: Photographs on which ranges are measured, and those on which each convolution is judged alone.
MEASURED, JUDGED_ALONE = 4, 2
#: Convolutions whose tensors are in memory at once.
AT_ONCE = 6

#: The images of a model on photographs, uint8 `[N, R, R, 3]`.
Images = Callable[[onnx.ModelProto, np.ndarray], np.ndarray]


def float16_plan(weights: RestorerWeights, photos: np.ndarray) -> RestorationPlan:
    """Everything in float16, with the scales that the signals of these photographs need."""
    model, parts = peak_model(weights)
    session, peaks = cpu_session(model), {"encoder": 0.0, "decoder": 0.0}
    for photo in photos:
        for name, peak in zip(parts, session.run(list(parts), {PHOTO: photo[None]}), strict=True):
            peaks[parts[name]] = max(peaks[parts[name]], float(peak))
    bounds = (1.0, MAX_FLOAT16_SIGNAL / HEADROOM)
    scales = {part: power_of_two_scale(peak, bounds) for part, peak in peaks.items()}
    return RestorationPlan(float16=True, encoder_scale=scales["encoder"], decoder_scale=scales["decoder"])


@dataclass
class ConvCalibration:
    """The measurements of one convolution.

    Attributes:
        macs: Its multiplications for one image.
        input: The values that it reads.
        output: The values that it writes.
    """

    macs: int = 0
    input: Histogram = field(default_factory=Histogram)
    output: Histogram = field(default_factory=Histogram)

    def quantized(self, symmetric: bool, quantize_output: bool) -> QuantizedConv:
        """The convolution in 8 bits. OpenVINO takes symmetric ranges, and ONNX Runtime needs that of the output."""
        output = self.output.quant_params(symmetric, OUTPUT_ESTIMATOR) if quantize_output else None
        return QuantizedConv(self.input.quant_params(symmetric, INPUT_ESTIMATOR), output)


def calibrate(weights: RestorerWeights, photos: np.ndarray, progress: Progress | None = None) -> dict[str, ConvCalibration]:
    """Measure every convolution that can be in 8 bits, on photographs uint8 `[N, R, R, 3]`."""
    plan = RestorationPlan(operators=False, up_form="phases")
    known = convolutions(weights, plan)
    measured: dict[str, ConvCalibration] = {}
    candidates = {name: conv for name, conv in known.items() if min(conv.kernel_shape[:2]) >= MIN_CHANNELS}
    for done in range(0, len(candidates), AT_ONCE):
        names = list(candidates)[done : done + AT_ONCE]
        chosen = [candidates[name] for name in names]
        session = cpu_session(restoration_model(weights, plan, observe=chosen))
        tensors = list(dict.fromkeys(tensor for conv in chosen for tensor in (conv.input, conv.output)))
        for photo in photos[:MEASURED]:
            values = dict(zip(tensors, session.run(tensors, {PHOTO: photo[None]}), strict=True))
            for name, conv in zip(names, chosen, strict=True):
                output = values[conv.output]
                if output.shape[2] < MIN_RESOLUTION:
                    continue
                layer = measured.setdefault(name, ConvCalibration(int(np.prod(conv.kernel_shape)) * output[0, 0].size))
                layer.input.add(values[conv.input])
                layer.output.add(output)
        if progress is not None:
            progress("calibrate 8 bits", min(done + AT_ONCE, len(candidates)), len(candidates))
    return measured


def int8_plan(calibration: Mapping[str, ConvCalibration], backend: str) -> RestorationPlan:
    """Every measured convolution in 8 bits, in the form that suits a backend."""
    for_openvino = backend == "openvino"
    quantized = {
        name: conv.quantized(symmetric=for_openvino, quantize_output=not for_openvino) for name, conv in calibration.items()
    }
    return RestorationPlan(quantized, operators=False, up_form="transposed" if for_openvino else "phases")


def search_plan(
    weights: RestorerWeights,
    calibration: Mapping[str, ConvCalibration],
    plan: RestorationPlan,
    photos: np.ndarray,
    target_db: float,
    images: Images,
    progress: Progress | None = None,
) -> tuple[RestorationPlan, Sensitivity]:
    """Take convolutions out of 8 bits until the images reach a PSNR (`quantization/sensitivity.py`).

    Args:
        weights: The network.
        calibration: Its measurements.
        plan: With every candidate in 8 bits.
        photos: At least two.
        target_db: The mean PSNR to reach, in dB, to the images of the float32 network.
        images: Runs a model on the backend that the plan is for.
        progress: Called after each measurement.

    Returns:
        The plan, and the result of the search.
    """
    reference = images_on_cpu(restoration_model(weights), photos)

    def images_without(names: object, some: np.ndarray = photos) -> np.ndarray:
        return images(restoration_model(weights, plan.without_quantization(names)), some)  # type: ignore[arg-type]

    found = search_layers(
        {name: float(calibration[name].macs) for name in plan.quantized},
        images_without,
        lambda name: images_without(set(plan.quantized) - {name}, photos[:JUDGED_ALONE]),
        reference,
        target_db,
        None if progress is None else partial(progress, "search 8-bit layers"),
    )
    return plan.without_quantization(found.higher_precision), found


def images_on_cpu(model: onnx.ModelProto, photos: np.ndarray) -> np.ndarray:
    """The images of a model on ONNX Runtime, one photograph after another."""
    session = cpu_session(model)
    return np.concatenate([session.run(["image"], {PHOTO: photo[None]})[0] for photo in photos])
